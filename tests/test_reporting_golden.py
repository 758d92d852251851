"""Tables as text, pinned: a fixed measurements.csv with every verdict and every kind of missing value.

The expected files are in tests/golden/report/. After a wanted change of the rendering, write them anew and read the
difference: `python tests/test_reporting_golden.py`.
"""

import csv
import re
import shutil
from pathlib import Path

import pytest
from reporting_results import compile_latex

from omniad.config import Settings, check_settings, run_settings
from omniad.reporting.cells import NOTHING
from omniad.reporting.layout import lay_out
from omniad.reporting.missing import missing
from omniad.reporting.outcome import outcome
from omniad.reporting.render import templates
from omniad.reporting.report import TableContent, write_table
from omniad.reporting.tables import Table, build_tables, find
from omniad.runs.finished import FinishedRun
from omniad.runs.measurements import Measurement

GOLDEN = Path(__file__).parent / "golden" / "report"
RUNS = ("default", "higher", "lower", "undefined", "one_seed", "short", "variant", "not_run")
COUNTS = {
    ("table4", "counted", "released"): {"parameters": 29.926912, "FLOPs": 11.157291},
    ("table4", "counted", "equations"): {"parameters": 33.013888, "FLOPs": 10.588176},
    ("table4", "counted otherwise", "released"): {"parameters": 344.7, "FLOPs": 114.3},
}


def settings() -> Settings:
    rows = [
        {"label": "only printed"},
        {"label": "partly printed"},
        {"label": "another method", "run": "other", "target": "table2_baselines"},
        {"label": "reproduced", "run": "default"},
        *({"label": name.replace("_", " "), "run": name} for name in ("higher", "lower", "undefined", "one_seed")),
        {"label": "another protocol", "run": "short"},
        {"label": "unlike print", "run": "variant"},
        {"label": "not run", "run": "not_run"},
    ]
    costs = [
        {"label": "counted", "run": "default"},
        {"label": "counted otherwise", "run": "one_seed"},
        {"label": "not counted", "run": "not_run"},
    ]
    accuracies, counts = ["P-AP", "AU-PRO"], ["parameters", "FLOPs", "mAD"]
    shared = {
        "title": "Everything",
        "about": "A & B_1.",
        "paper": str(GOLDEN / "paper.csv"),
        "targets": ["table2_baselines"],
    }
    tables = {
        "table1": shared
        | {"columns": accuracies, "rows": rows[3:4], "extra_runs": ["released", "default_torchvision"]},
        "table2": shared | {"columns": accuracies, "rows": rows},
        "table4": shared | {"columns": counts, "rows": costs},
    }
    return check_settings(
        {
            "results": "results/golden",
            "datasets": ["mvtec"],
            "sources": {"mvtec": {"title": "MVTec-AD", "layout": "mvtec", "folder": "data"}},
            "model": {"encoder_weights": "timm"},
            "runs": {
                **{name: {} for name in RUNS},
                "default": {"note": "a note with 5 % & a_b"},
                "default_torchvision": {"model": {"encoder_weights": "imagenet"}, "unlike": "other encoder weights"},
                "variant": {"unlike": "its textures are others"},
                "other": {"model": {"method": "rd4ad", "encoder": "wide_resnet50_2"}},
                "released": {"model": {"variant": "released", "encoder_weights": "timm"}, "training": {"epochs": 1000}},
            },
            "tables": tables,
        },
        "golden",
    )


def tables() -> list[Table]:
    """The tables of the fixed measurements; the run `short` was trained for 3 epochs."""
    configured = settings()
    with (GOLDEN / "measurements.csv").open(newline="") as file:
        lines = [
            Measurement(
                *(line["dataset"], line["run"], int(line["seed"]), line["class"], line["metric"], line["definition"]),
                float(line["value"] or "nan"),
                line["reason"],
                float(line["spread"] or "nan"),
            )
            for line in csv.DictReader(file)
        ]
    runs = []
    for dataset, run, seed in sorted({(line.dataset, line.run, line.seed) for line in lines}):
        as_run = run_settings(configured, dataset, run)
        if run == "short":
            as_run = as_run.model_copy(update={"training": as_run.training.model_copy(update={"epochs": 3})})
        runs.append(FinishedRun(Path("results/golden/runs", dataset, run, f"seed{seed}"), dataset, run, seed, as_run))
    return build_tables(find(configured, lines, runs, COUNTS, protocol=configured), paper=GOLDEN)


def write(folder: Path) -> None:
    for table in tables():
        content = TableContent(table, lay_out(table), missing(settings(), table), "")
        environment = templates()
        environment.globals |= {"definition": "published"}
        write_table(environment, content, folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write(folder)
    return folder


@pytest.mark.parametrize("name", [f"table{number}.{ending}" for number in (1, 2, 4) for ending in ("md", "tex", "csv")])
def test_the_rendering_is_the_pinned_one(made, name):
    assert (made / name).read_text() == (GOLDEN / name).read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here (Debian: texlive-latex-recommended)")
def test_the_longest_table_compiles_onto_one_page(made, tmp_path):
    log = compile_latex(made / "table2.tex", tmp_path)
    assert "Output written on table2.pdf (1 page" in log
    assert not {"Overfull", "too large"} & set(re.findall(r"Overfull|too large", log))


def test_each_verdict_and_each_kind_of_missing_value_is_among_them(made):
    """So that the pinned files can't lose one unseen."""
    text = (made / "table2.md").read_text() + (made / "table4.md").read_text()
    for sign in (
        "✓ ±",
        "↑ ±",
        "↓ ±",
        "? ±",
        " (n = ",
        "| undefined (",
        "| not run |",
        f"| {NOTHING} |",
        "0 of 3",
        "1 of 3",
    ):
        assert sign in text, sign
    with (made / "table2.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    verdicts = {line["verdict"].partition(":")[0] for line in lines} - {""}
    assert verdicts == {"reproduced", "higher", "lower", "inconclusive", "not judged"}
    assert {line["status"] for line in lines} == {"measured", "undefined", "not run", "only printed"}
    for command in ("all table2`", "all table4`", "all complexity`"):
        assert command.replace("`", " --configfile") in text


def test_an_interval_by_hand(made):
    """P-AP: three seeds of deviation 0.1; t(.975, 2) = 4.303 in print."""
    with (made / "table2.csv").open(newline="") as file:
        line = next(line for line in csv.DictReader(file) if (line["row"], line["column"]) == ("reproduced", "P-AP"))
    assert float(line["half_width"]) == pytest.approx(0.05 + 4.303 * 0.1 * (4 / 3) ** 0.5, abs=1e-3)


def test_the_outcome_counts_each_number_once():
    """By hand, from the pinned tables: `default` stands in I and II with the same prints, in IV with another."""
    result = outcome(tables())
    assert dict(result.kinds) == {"reproduced": 2, "higher": 1, "lower": 2, "inconclusive": 10, "not judged": 7}
    assert result.judged == 15
    assert result.false_expected == pytest.approx(0.75)
    assert result.reasons("inconclusive") == {
        "too few seeds; at the measured mean and deviation 4 to 14 would be enough": 6,
        "one seed has no spread": 3,
        "not even 100 seeds would decide it, because the printed number is a single draw": 1,
    }
    assert (result.equal_counts, len(result.counts)) == (3, 4)
    assert {(one.column, one.verdict.kind) for one in result.different if one in result.counts} == {
        ("parameters", "lower")
    }


if __name__ == "__main__":
    write(GOLDEN)
