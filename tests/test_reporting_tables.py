"""Cells of tables from small measurements whose means and deviations are known."""

import pytest
from reporting_results import paper_settings, write_run

from omniad.config import Settings, check_settings, load_settings
from omniad.reporting.cells import signed
from omniad.reporting.layout import Grid, lay_out
from omniad.reporting.missing import command, missing
from omniad.reporting.render import csv_lines, latex, markdown
from omniad.reporting.tables import Table, build_tables, find
from omniad.runs.finished import finished_runs
from omniad.runs.measurements import collect
from omniad.runs.targets import target_runs

CHECK = "\N{CHECK MARK}"
EN_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
PAPER = """dataset,row,metric,value,note
mvtec,Other,P-AP,51.0,
mvtec,Mine,P-AP,93.5,
mvtec,Mine,AU-PRO,90.0,read off a figure
mvtec,Small,parameters,29.9,
mvtec,Small,FLOPs,114,
mvtec,Small,mAD,85.0,
"""
OTHER = {"model": {"method": "rd4ad", "encoder": "wide_resnet50_2"}}
COUNTS = {("cost", "Small", "released"): {"parameters": 29.926912, "FLOPs": 113.71}}


def make_settings(tmp_path, **changes) -> Settings:
    """One data set, two runs, and two tables: accuracies (stacked) and costs (side by side)."""
    paper = tmp_path / "paper.csv"
    paper.write_text(PAPER)
    mine = {"label": "Mine", "dataset": "mvtec", "run": "default"}
    values = {
        "results": str(tmp_path / "results"),
        "datasets": ["mvtec"],
        "sources": {"mvtec": {"title": "MVTec-AD", "layout": "mvtec", "folder": "data"}},
        "runs": {"default": {}, "released": {"model": {"variant": "released"}}},
        "tables": {
            "table2": {
                "title": "Accuracies",
                "paper": str(paper),
                "columns": ["P-AP", "AU-PRO"],
                "extra_runs": ["released"],
                "rows": [{"label": "Other", "dataset": "mvtec"}, mine],
            },
            "cost": {
                "title": "Costs",
                "paper": str(paper),
                "columns": ["parameters", "FLOPs", "mAD"],
                "rows": [mine | {"label": "Small"}],
            },
        },
    }
    return check_settings(values | changes, "test")


def build(settings, tmp_path, counts=COUNTS) -> tuple[Table, Table]:
    runs = finished_runs(settings.results)
    accuracies, costs = build_tables(find(settings, collect(runs), runs, counts))
    return accuracies, costs


def lines(grid: Grid) -> list[list[str]]:
    return [grid.head, *grid.lines]


def test_three_seeds_give_mean_deviation_and_difference(tmp_path):
    settings = make_settings(tmp_path)
    for seed, value in enumerate((0.90, 0.92, 0.94)):
        exact = {"P-AP": 0.5, "AU-PRO": 0.5}
        write_run(settings, "mvtec", "default", seed, {"P-AP": value, "AU-PRO": 0.9}, exact=exact)
    grid = lay_out(build(settings, tmp_path)[0])
    # The deviation of 90, 92, 94 is 2 with n - 1 (1.6 with n), their mean 1.5 below print.
    assert lines(grid) == [
        ["Method", "Source", "Seeds", "P-AP", "AU-PRO"],
        ["Other", "paper", EN_DASH, "51.0", EN_DASH],
        ["Mine", "paper", EN_DASH, "93.5", "90.0 (a)"],
        ["Mine", "ours, equations", "3", "92.0 ± 2.0", "90.0 ± 0.0"],
        ["Mine", "difference", EN_DASH, f"{MINUS}1.5", "0.0"],
        # 0.05 + 4.3027 * 2 * sqrt(4/3): Student's t for 2 degrees of freedom, from a printed table
        ["Mine", "verdict", EN_DASH, "? ±9.99", f"{CHECK} ±0.05"],
    ]
    assert grid.marks[4][-2:] == ["inconclusive", "reproduced"]
    assert grid.runs == [None, None, *[("mvtec", "default")] * 3]
    assert grid.notes == ["(a) read off a figure"]
    assert grid.starts == [False, True, False, False, False]


def test_one_seed_has_no_deviation(tmp_path):
    settings = make_settings(tmp_path, seeds=[7])
    write_run(settings, "mvtec", "default", 7, {"P-AP": 0.92, "AU-PRO": 0.9049})
    grid = lay_out(build(settings, tmp_path)[0])
    assert grid.lines[2] == ["Mine", "ours, equations (b)", "1", "92.0", "90.5"]
    assert grid.notes[1] == "(b) Inconclusive: one seed has no spread."


def test_what_was_not_run_says_so_and_names_the_command(tmp_path):
    settings = make_settings(tmp_path)
    accuracies, costs = build(settings, tmp_path, counts={})
    assert lay_out(accuracies).lines[2:] == [["Mine", "ours, equations", "0 of 3", "not run", "not run"]]
    assert lay_out(costs).lines == [
        ["Small", "29.9", "not run", "not run", "114", "not run", "not run", "85.0", "not run", EN_DASH, "0 of 3"]
    ]
    config, extra = (
        f"--configfile {tmp_path}/results/config.yaml",
        "`released` was not run; it gets its own lines.",
    )
    assert missing(settings, accuracies) == [
        f"Not run: `default` on MVTec-AD (seeds 0, 1, 2). To run it: `snakemake --cores all table2 {config}`",
        f"{extra} To run it: `snakemake --cores all table2_released {config}`",
    ]
    assert missing(settings, costs)[1] == (
        f"Not counted: parameters and FLOPs. To count them: `snakemake --cores all complexity {config}`"
    )


def test_missing_seeds_are_told(tmp_path):
    settings = make_settings(tmp_path)
    for seed in (0, 2):
        write_run(settings, "mvtec", "default", seed, {"P-AP": 0.9, "AU-PRO": 0.9})
    accuracies, _ = build(settings, tmp_path)
    assert lay_out(accuracies).lines[2][2] == "2 of 3"
    assert "`default` on MVTec-AD (seed 1)" in missing(settings, accuracies)[0]


def test_an_undefined_metric_says_why(tmp_path):
    settings = make_settings(tmp_path, seeds=[0])
    write_run(settings, "mvtec", "default", 0, {"P-AP": None, "AU-PRO": 0.9}, reason="no anomalous image")
    accuracies, _ = build(settings, tmp_path)
    grid = lay_out(accuracies)
    assert grid.lines[2][3] == "undefined (b)"
    assert grid.lines[3][3] == EN_DASH
    assert grid.notes[1] == "(b) no anomalous image"
    statuses = {line["definition"]: line["status"] for line in csv_lines(accuracies) if line["column"] == "P-AP"}
    assert statuses["published"] == "undefined"


def test_an_extra_run_has_a_line_where_it_was_run(tmp_path):
    settings = make_settings(tmp_path, seeds=[0])
    write_run(settings, "mvtec", "default", 0, {"P-AP": 0.9, "AU-PRO": 0.9})
    write_run(settings, "mvtec", "released", 0, {"P-AP": 0.95, "AU-PRO": 0.91})
    accuracies, _ = build(settings, tmp_path)
    assert lay_out(accuracies).lines[4:] == [
        ["Mine", "ours, released (c)", "1", "95.0", "91.0"],
        ["Mine", "difference", EN_DASH, "+1.5", "+1.0"],
    ]
    assert missing(settings, accuracies) == []


def test_a_table_without_printed_numbers_has_only_measured_lines(tmp_path):
    tables = make_settings(tmp_path).model_dump()["tables"]
    del tables["table2"]["paper"], tables["cost"]["paper"]
    settings = make_settings(tmp_path, tables=tables)
    write_run(settings, "mvtec", "default", 0, {"P-AP": 0.92, "AU-PRO": 0.9})
    accuracies, costs = build(settings, tmp_path)
    assert lay_out(accuracies).lines == [["Mine", "ours, equations", "1 of 3", "92.0", "90.0"]]
    cells = lay_out(costs).lines[0]
    assert cells[1:3] == [EN_DASH, "29.9"]  # the paper's parameters, those counted here
    assert "difference" not in " ".join(lay_out(accuracies).head)


def test_another_methods_row_is_trained_by_its_own_target(tmp_path):
    tables = make_settings(tmp_path).model_dump()["tables"]
    tables["table2"]["targets"] = ["table2_others"]
    tables["table2"]["rows"][0] |= {"run": "other", "target": "table2_others"}
    runs = {"default": {}, "released": {"model": {"variant": "released"}}, "other": OTHER}
    settings = make_settings(tmp_path, tables=tables, runs=runs)
    targets = target_runs(settings)
    assert targets["table2"] == targets["all"] == {("mvtec", "default")}
    assert targets["table2_others"] == {("mvtec", "other")}
    accuracies, _ = build(settings, tmp_path)
    assert [line[:2] for line in lay_out(accuracies).lines if line[0] == "Other"] == [["Other", "paper"]]  # not run yet
    config = f"--configfile {tmp_path}/results/config.yaml"
    assert missing(settings, accuracies)[:2] == [
        f"Not run: `other` on MVTec-AD (seeds 0, 1, 2). To run it: `snakemake --cores all table2_others {config}`",
        f"Not run: `default` on MVTec-AD (seeds 0, 1, 2). To run it: `snakemake --cores all table2 {config}`",
    ]
    for run, value in (("other", 0.5), ("released", 0.6)):
        write_run(settings, "mvtec", run, 0, {"P-AP": value, "AU-PRO": value})
    accuracies, _ = build(settings, tmp_path)
    lines = lay_out(accuracies).lines
    assert [line[:2] for line in lines] == [
        *(["Other", "paper"], ["Other", "ours (a)"], ["Other", "difference"]),
        *(["Mine", "paper"], ["Mine", "ours, equations"], ["Mine", "ours, released (c)"], ["Mine", "difference"]),
    ]
    assert "table2_others" in missing(settings, accuracies)[0]


def test_costs_stand_side_by_side_at_the_printed_precision(tmp_path):
    settings = make_settings(tmp_path, seeds=[0])
    write_run(settings, "mvtec", "default", 0, {"mAD": 0.8372})
    counts = COUNTS | {("cost", "Small", "equations"): {"parameters": 33.04, "FLOPs": 104.6}}
    grid = lay_out(build(settings, tmp_path, counts)[1])
    assert lines(grid) == [
        [
            "Method",
            *("Params (M)\npaper", "Params (M)\nreleased", "Params (M)\nequations"),
            *("FLOPs (G)\npaper", "FLOPs (G)\nreleased", "FLOPs (G)\nequations"),
            *("mAD\npaper", "mAD\nours, equations", "mAD\ndifference", "Seeds"),
        ],
        [
            "Small (a)",
            "29.9",
            f"29.9 {CHECK}",
            "33.0",
            "114",
            f"114 {CHECK}",
            "105",
            "85.0",
            "83.7",
            f"{MINUS}1.3",
            "1",
        ],
    ]


def test_a_miniature_has_no_difference_and_its_notes_stand_at_the_row(tmp_path):
    source = {"title": "MVTec-AD", "layout": "mvtec", "folder": "data", "miniature": True}
    runs = {"default": {"note": "Half the width."}, "released": {}}
    settings = make_settings(tmp_path, seeds=[0], sources={"mvtec": source}, runs=runs)
    write_run(settings, "mvtec", "default", 0, {"P-AP": 0.9, "AU-PRO": 0.8, "mAD": 0.7})
    accuracies, costs = build(settings, tmp_path)
    grid = lay_out(accuracies)
    assert grid.lines[2:] == [["Mine", "ours, equations (miniature) (b)", "1", "90.0", "80.0"]]
    assert grid.notes[1] == "(b) Half the width."
    assert lay_out(costs).head[-2:] == ["mAD\nours, equations (miniature)", "Seeds"]
    assert lay_out(costs).lines[0][0] == "Small (a)"
    assert not [line for line in csv_lines(accuracies) if line["difference"]]


def test_runs_made_with_other_settings_are_marked(tmp_path):
    before = make_settings(tmp_path, training={"epochs": 3, "cache_gib": 1.0})
    write_run(before, "mvtec", "default", 0, {"P-AP": 0.9, "AU-PRO": 0.9})
    settings = make_settings(tmp_path)
    write_run(settings, "mvtec", "default", 1, {"P-AP": 0.9, "AU-PRO": 0.9})
    grid = lay_out(build(settings, tmp_path)[0])
    assert grid.notes[1] == "(b) Seed 0: made with training.epochs 3 instead of 500."
    assert grid.notes[2] == "(c) Not judged: another protocol: training.epochs 3 instead of 500."
    assert grid.lines[2][1].endswith("(b) (c)")


def test_the_csv_holds_both_definitions_and_compares_one(tmp_path):
    settings = make_settings(tmp_path)
    for seed, value in enumerate((0.90, 0.92, 0.94)):
        values = {"P-AP": value, "AU-PRO": 0.9}
        write_run(settings, "mvtec", "default", seed, values, exact={"P-AP": 0.95, "AU-PRO": 0.9})
    accuracies, costs = build(settings, tmp_path)
    keys = ("row", "definition", "variant", "run", "paper", "ours", "std", "seeds", "difference", "status")
    found = [tuple(line[key] for key in keys) for line in csv_lines(accuracies) if line["column"] == "P-AP"]
    assert found == [
        ("Other", "", "", "", "51.0", "", "", "", "", "only printed"),
        ("Mine", "published", "equations", "default", "93.5", "92.0000", "2.0000", 3, "-1.5000", "measured"),
        ("Mine", "exact", "equations", "default", "93.5", "95.0000", "0.0000", 3, "", "measured"),
    ]
    found = [(line["column"], line["variant"], line["ours"], line["status"]) for line in csv_lines(costs)]
    assert found[:2] == [("parameters", "released", "29.926912", "counted"), ("parameters", "equations", "", "not run")]


def test_commands_name_what_the_configuration_leaves_out(tmp_path):
    settings = paper_settings(tmp_path, datasets=["mvtec"])
    expected = f"snakemake --cores all table1 --config datasets='[mvtec,visa]' --configfile {tmp_path}/config.yaml"
    assert command(settings, "table1", ["mvtec", "visa"]) == expected


def test_the_default_configuration_needs_no_file():
    assert command(load_settings(), "table4", ["mvtec"]) == "snakemake --cores all table4"


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-0.06, f"{MINUS}0.1"), (-12.34, f"{MINUS}12.3")]
)
def test_signed(value, text):
    assert signed(value) == text


def test_text_is_made_safe_for_markdown_and_latex():
    assert markdown("a|b\nc") == "a\\|b<br>c"
    assert markdown("[a](javascript:b) <i>") == r"\[a\](javascript:b) &lt;i>"
    assert markdown(r"\[a](b)") == r"\\\[a\](b)"  # a backslash of theirs does not undo ours
    assert latex("50 % of tokens_16 & {x} \\ #1 ~ ^") == (
        r"50 \% of tokens\_16 \& \{x\} \textbackslash{} \#1 \textasciitilde{} \textasciicircum{}"
    )
    assert latex(f"1.0 ± 0.2\n{MINUS}3 {EN_DASH}") == r"\shortstack{1.0 $\pm$ 0.2 \\ $-$3 --}"


def test_runs_that_lack_the_same_are_named_together(tmp_path):
    settings = load_settings()
    settings = settings.model_copy(update={"results": str(tmp_path), "seeds": [0]})
    (table,) = (one for one in build_tables(find(settings, [], [], {})) if one.name == "table1")
    told = missing(settings, table)
    assert told[0].startswith(
        "Not run: `rd4ad` on MVTec-AD, VisA (seed 0); "
        "`uniad`, `simplenet`, `destseg`, `diad`, `mambaad` on MVTec-AD, VisA, Real-IAD (seed 0); "
        "`rlr` on MVTec-AD (seed 0). To run it: `snakemake --cores all table1_baselines"
    )
    assert told[1].startswith("Not run: `default` on MVTec-AD, VisA, Real-IAD (seed 0). To run it: `snakemake")
