"""The report as a whole, on the configured tables and hand-made results."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml
from reporting_results import (
    SEVEN,
    compile_latex,
    miniature_settings,
    paper_settings,
    paper_tables,
    tables_of,
    write_examples,
    write_run,
)

from omniad.cli import main
from omniad.config import PAPER_FOLDER, load_settings
from omniad.reporting.complexity import write_complexity
from omniad.reporting.paper import read_paper
from omniad.reporting.report import PAPER_VS_CODE, write_report
from omniad.runs.targets import target_runs

TABLES = [f"Table {number}: " for number in ("I", "II", "III", "IV", "V", "VI", "VII")]
LOWER = "\N{DOWNWARDS ARROW}"
VALUES: dict[str, float | None] = dict.fromkeys((*SEVEN, "mAD"), 0.5)
CONFIGURED = load_settings()
PAPER = {name: entry for name, entry in CONFIGURED.tables.items() if re.fullmatch(r"table\d", name)}  # the paper's own
TITLES = {source.title: name for name, source in CONFIGURED.sources.items()}


def without_note(cell: str) -> str:
    """A cell without the letter of its footnote."""
    return re.sub(r" \([a-z]\)$", "", cell)


def write_counts(settings) -> None:
    rows = [
        {"table": table, "row": row.label, "variant": variant, "parameters": 1_250_000, "macs": 3_000_000_000}
        for table, entry in settings.tables.items()
        for row in entry.rows
        for variant in ("released", "equations")
        if row.run
    ]
    write_complexity(rows, Path(settings.results) / "complexity.csv")


@pytest.fixture(scope="module")
def nothing_run(tmp_path_factory):
    return write_report(paper_settings(tmp_path_factory.mktemp("nothing")))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A finished miniature: every run of Omni-AD of every table with one seed, its costs and its examples."""
    values = CONFIGURED.model_dump()
    values["runs"]["resnet50"]["note"] = "Half as wide | as it should be."
    for table in values["tables"].values():  # the other methods as printed only
        table["rows"] = [row | ({"run": "", "target": ""} if row["target"] else {}) for row in table["rows"]]
    changes = {"runs": values["runs"], "tables": values["tables"]}
    settings = miniature_settings(tmp_path_factory.mktemp("miniature"), seeds=[0], **changes)
    wanted = target_runs(settings)["all"]
    for dataset, run in wanted:
        folder = write_run(settings, dataset, run, 0, VALUES)
        if run == "default":
            write_examples(folder, "coins")
    write_counts(settings)
    return write_report(settings)


def test_without_runs_every_table_shows_print_and_what_to_type(nothing_run):
    text = nothing_run.read_text()
    assert "**Nothing has been run yet.**" in text
    assert [line for line in text.splitlines() if line.startswith("## Table")] == [
        f"## {label}{table.title}" for label, table in zip(TABLES, PAPER.values(), strict=True)
    ]
    for name in CONFIGURED.tables:
        assert f"`snakemake --cores all {name} --configfile " in text
    assert "`snakemake --cores all figures --configfile " in text
    assert "`snakemake --cores all complexity --configfile " in text


def test_the_configuration_that_the_commands_name_is_there_but_never_replaced(tmp_path):
    own, snapshot = tmp_path / "own.yaml", tmp_path / "results" / "config.yaml"
    own.write_text(f"results: {tmp_path}/results\nseeds: [7]\n")
    assert main(["report", "--config", str(own)]) == 0
    assert f"table4 --configfile {snapshot}`" in (tmp_path / "results" / "report.md").read_text()
    assert load_settings(snapshot) == load_settings(own)
    snapshot.write_text("the workflow's")
    assert main(["report", "--config", str(own)]) == 0
    assert snapshot.read_text() == "the workflow's"


@pytest.mark.parametrize("report", ["nothing_run", "miniature"])
def test_tables_are_whole_and_in_the_papers_order(report, request):
    tables = paper_tables(request.getfixturevalue(report).read_text())
    for lines, entry in zip(tables, PAPER.values(), strict=True):
        assert {len(line) for line in lines} == {len(lines[0])}
        assert all(cell for line in lines for cell in line)
        label = lines[0].index(entry.head)
        names = list(dict.fromkeys((line[0], without_note(line[label])) for line in lines[1:]))
        assert [name for _, name in names] == [row.label for row in entry.rows]


@pytest.mark.parametrize("report", ["nothing_run", "miniature"])
def test_every_printed_number_stands_in_its_row_and_column(report, request):
    tables = paper_tables(request.getfixturevalue(report).read_text())
    for (head, *lines), entry in zip(tables, PAPER.values(), strict=True):
        heads = {"parameters": "Params (M)<br>paper", "FLOPs": "FLOPs (G)<br>paper"}
        shown = {}
        for line in lines:
            if "Source" in head and line[head.index("Source")] != "paper":
                continue
            dataset = TITLES[line[0]] if "Data set" in head else "mvtec"
            for column in entry.columns:
                place = column if column in head else heads.get(column, f"{column}<br>paper")
                key = (dataset, without_note(line[head.index(entry.head)]), column)
                shown[key] = without_note(line[head.index(place)])
        printed = read_paper(PAPER_FOLDER / entry.paper)
        numbers = {key: text for key, text in shown.items() if text != "\N{EN DASH}"}
        assert numbers == {key: number.text for key, number in printed.items()}


def test_a_finished_miniature_lacks_nothing_and_says_what_it_is(miniature):
    text = miniature.read_text()
    title = "# Omni-AD: a reproduction (miniature data: accuracies are not comparable with the paper)"
    assert text.splitlines()[0] == title
    cells = [cell for table in paper_tables(text) for line in table for cell in line]
    assert not {"not run", "undefined", "difference"} & set(cells)
    ours = [line for table in paper_tables(text) for line in table if "ours, equations (miniature)" in line]
    assert len(ours) == 3 + 3 + 4 + 3  # rows with a run in Tables I, II, III and V
    assert {cell for line in ours for cell in line[-7:]} == {"50.0"}
    assert (
        text.count("**Miniature data: these accuracies are not comparable with the paper's") == len(TABLES) + 1
    )  # and `field`


def test_the_beginning_says_what_was_run(miniature):
    beginning = miniature.read_text().partition("**This is a miniature")[0].splitlines()
    for fact in (
        "19 runs on MVTec-AD (miniature), VisA (miniature) and Real-IAD (miniature), seed 0.",
        "variant `equations`",
        "Epochs: 500.",
        "256 x 256 pixels.",
        "Precision: fp32 on half-precision encoder features.",
        "`resnet34`; `resnet18` in `resnet18`",
        "IMAGENET1K_V1, pretrained on ImageNet-1k",
        "Test CPU, 2 threads, no GPU",
        "Trained 2026-03-01, 28 min in all.",  # 19 times 90 seconds
        "Commit: `abc123`.",
    ):
        assert any(fact in line for line in beginning if line.startswith(("**What was run", "- ")))


def test_runs_that_differ_are_told_apart(tmp_path):
    settings = paper_settings(tmp_path)
    write_run(settings, "mvtec", "default", 0, VALUES)
    for dataset in ("mvtec", "realiad"):
        write_run(settings, dataset, "released", 1, VALUES)
    paragraph = write_report(settings).read_text().partition("The same as a single page")[0]
    assert "3 runs on MVTec-AD and Real-IAD, seeds 0, 1." in paragraph
    assert "Epochs: 500; 1000 in `released` on MVTec-AD; 100 in `released` on Real-IAD." in paragraph
    assert "variant `released`; variant `equations` in `default`" in paragraph
    assert "Trained 2026-03-01 to 2026-03-02" in paragraph


def test_a_data_sets_note_stands_once_where_it_has_runs(tmp_path):
    settings = paper_settings(tmp_path, datasets=["mvtec", "mvtec_loco"])
    note = "MVTec LOCO AD: its authors' metric, sPRO, is not computed"
    assert note not in write_report(settings).read_text()
    for seed in range(2):
        write_run(settings, "mvtec_loco", "default", seed, dict.fromkeys(SEVEN, 0.9))
    report = write_report(settings)
    assert report.read_text().count(note) == 1
    assert "sPRO, is not computed" in report.with_suffix(".html").read_text()


def test_costs_of_a_miniature_are_shown_beside_print(miniature):
    table = paper_tables(miniature.read_text())[6]
    row = next(line for line in table if line[0].startswith("ResNet50"))
    # 1.25 M parameters and 3 G multiply-adds, as written above; 468 and 114 are printed without decimals.
    assert row[:7] == ["ResNet50 (a)", "468", f"1 {LOWER}", "1", "114", f"3 {LOWER}", "3"]
    assert "(a) Half as wide \\| as it should be." in miniature.read_text()


def test_links_lead_somewhere(miniature):
    text = miniature.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    headings = {"#" + line[3:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")}
    assert {link for link in links if link.startswith("#")} <= headings
    targets = [(miniature.parent / link).resolve() for link in links if not link.startswith("#")]
    assert PAPER_VS_CODE in targets
    assert not [link for link in links if Path(link).is_absolute()]
    assert not [target for target in targets if target != PAPER_VS_CODE and not target.exists()]
    assert (miniature.parent / "figures" / "figure3.png").resolve() in targets


def test_each_table_is_a_file_in_three_formats(miniature):
    folder = miniature.parent / "tables"
    for name in CONFIGURED.tables:
        (table,) = tables_of((folder / f"{name}.md").read_text())
        assert (folder / f"{name}.tex").is_file()
        with (folder / f"{name}.csv").open() as file:
            lines = list(csv.DictReader(file))
        printed = read_paper(PAPER_FOLDER / CONFIGURED.tables[name].paper)
        found = {(line["dataset"], line["row"], line["column"]): line["paper"] for line in lines if line["paper"]}
        assert found == {key: number.text for key, number in printed.items()}
        assert name not in PAPER or {"published", "exact"} <= {line["definition"] for line in lines}
        assert len(table) > 1


@pytest.mark.parametrize("name", list(CONFIGURED.tables))
def test_latex_has_as_many_cells_as_columns(miniature, name):
    source = (miniature.parent / "tables" / f"{name}.tex").read_text()
    assert source.isascii()
    text = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    begins, ends = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begins == ends[::-1] == ["document", "table", "tabular"]
    columns = re.search(r"\\begin{tabular}{(l+r+)}", text)
    assert columns
    body = text[columns.end() : text.index(r"\end{tabular}")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    entry = CONFIGURED.tables[name]
    assert len(lines) > (len(entry.rows) if name in PAPER else 1)  # what was not run has no line there
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(columns[1])}
    assert [body.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("name", list(CONFIGURED.tables))
def test_latex_compiles_as_it_is(miniature, name, tmp_path):
    source = miniature.parent / "tables" / f"{name}.tex"
    log = compile_latex(source, tmp_path)
    assert "Overfull" not in log
    assert "too large" not in log  # a table that is longer than its page


def test_the_same_results_give_the_same_files(tmp_path):
    settings = miniature_settings(tmp_path, seeds=[0])
    write_examples(write_run(settings, "mvtec", "default", 0, VALUES), "coins")
    made = [
        "report.md",
        "report.html",
        "runs.csv",
        "measurements.csv",
        "tables/table1.md",
        "tables/table1.tex",
        "tables/table1.csv",
    ]
    write_report(settings)
    first = {name: (tmp_path / name).read_bytes() for name in made}
    write_report(settings)
    assert {name: (tmp_path / name).read_bytes() for name in made} == first


def test_a_run_that_can_not_be_read_is_told_and_the_others_are_shown(tmp_path, caplog):
    settings = paper_settings(tmp_path)
    write_run(settings, "mvtec", "default", 0, VALUES)
    foreign = write_run(settings, "mvtec", "only_q", 0, VALUES)
    config = (foreign / "config.yaml").read_text()
    (foreign / "config.yaml").write_text(config.replace("method: omni-ad", "method: of_another_version"))
    damaged = write_run(settings, "visa", "default", 0, VALUES)
    (damaged / "provenance.json").write_text("{")
    wrong = write_run(settings, "visa", "default", 1, VALUES)
    (wrong / "metrics.csv").write_text("class,value\n")
    text = write_report(settings).read_text()
    html = (tmp_path / "report.html").read_text()
    for folder, what in (
        (foreign, "model.method"),
        (damaged, "damaged; evaluate the run again, or remove the file"),
        (wrong, "no column definition"),
    ):
        (line,) = (line for line in text.splitlines() if line.startswith("- ") and str(folder) in line)
        assert what in line and what in html and f"Left out of the report: {folder}" in caplog.text
    assert "`default`" in text and "runs/mvtec/default/seed0" in text
    assert "runs/mvtec/only_q/seed0 |" not in text


@pytest.mark.parametrize("source", [{"counts": "theirs.csv"}, {"classes": ["theirs"]}])
def test_a_run_with_a_table_of_counts_or_classes_of_its_own_is_no_obstacle(tmp_path, source):
    """A bundle may bring it; what is left to train is then guessed from 5,000 images."""
    settings = paper_settings(tmp_path)
    config = write_run(settings, "visa", "default", 0, VALUES) / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"source": values["source"] | source}))
    assert "runs/visa/default/seed0" in write_report(settings).read_text()
