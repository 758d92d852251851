"""What stands behind the tables: each class, the record of each run, costs, the oracle."""

import csv
import json

import pytest
from reporting_results import miniature_settings, paper_settings, write_run

from omniad.errors import UserError
from omniad.job_size import relative_cost
from omniad.reporting.classes import both_definitions, class_tables, write_classes
from omniad.reporting.costs import costs, spent
from omniad.reporting.outcome import oracles
from omniad.reporting.records import HEAD, record, versions, write_records
from omniad.reporting.render import inline, markdown
from omniad.reporting.seeds import summarise
from omniad.runs.finished import finished_runs
from omniad.runs.measurements import collect


@pytest.fixture
def settings(tmp_path):
    return paper_settings(tmp_path, datasets=["mvtec"])


def test_each_class_is_a_line_and_the_mean_is_the_last(settings, tmp_path):
    for seed, value in enumerate((0.5, 0.52)):
        folder = write_run(settings, "mvtec", "default", seed, {"P-AP": value, "AU-PRO": 0.9})
        with (folder / "metrics.csv").open("a") as file:
            file.write(f"bottle,P-AP,published,{value + 0.1},\nbottle,AU-PRO,published,,no anomalous pixel\n")
    runs = finished_runs(tmp_path)
    (table,) = class_tables(settings, collect(runs), runs)
    assert (table.name, table.seeds, table.title) == ("mvtec-default", (0, 1), "MVTec-AD")
    assert [table.head, *table.lines] == [
        ["Class", "P-AP", "AU-PRO"],
        ["bottle", "61.0 ± 1.4", "undefined"],
        ["screw", "12.3 ± 0.0", "12.3 ± 0.0"],
        ["mean", "51.0 ± 1.4", "90.0 ± 0.0"],
    ]
    write_classes(table, tmp_path / "classes.csv")
    with (tmp_path / "classes.csv").open() as file:
        lines = {(line["class"], line["metric"], line["definition"]): line for line in csv.DictReader(file)}
    assert lines["bottle", "AU-PRO", "published"]["reason"] == "no anomalous pixel"
    assert lines["bottle", "P-AP", "published"]["mean"] == "61.0000"
    assert ("mean", "P-AP", "exact") in lines


def test_print_stands_beside_each_class_where_there_is_some(settings, tmp_path):
    """MambaAD's bottle and RD4AD's misprint, as they are printed; neither beside Omni-AD nor beside a miniature."""
    for run in ("mambaad", "default"):
        folder = write_run(settings, "mvtec", run, 0, {"I-AUROC": 0.9})
        with (folder / "metrics.csv").open("a") as file:
            file.write("bottle,I-AUROC,published,0.987,\nmine,I-AUROC,published,0.5,\n")
    visa = write_run(settings, "visa", "rd4ad", 0, {"I-AP": 0.9})
    with (visa / "metrics.csv").open("a") as file:
        file.write("macaroni1,I-AP,published,0.6,\n")
    runs = finished_runs(tmp_path)
    tables = {table.key: table for table in class_tables(settings, collect(runs), runs)}
    shown: dict = {key: dict(table.lines) for key, table in tables.items()}
    assert shown["mvtec", "mambaad"] | {"screw": ""} == {
        "bottle": "98.7 (100.0)", "mine": "50.0", "screw": "", "mean": "90.0"
    }  # fmt: skip
    assert shown["mvtec", "default"]["bottle"] == "98.7"
    assert shown["visa", "rd4ad"]["macaroni1"] == "60.0 (1.5)"
    assert tables["mvtec", "mambaad"].about_print == "In brackets: the printed numbers of MambaAD."
    assert "macaroni1, I-AP: a misprint, probably of 61.5." in tables["visa", "rd4ad"].about_print
    assert tables["mvtec", "default"].about_print == ""
    write_classes(tables["mvtec", "mambaad"], tmp_path / "classes.csv")
    with (tmp_path / "classes.csv").open() as file:
        printed = {line["class"]: line["printed"] for line in csv.DictReader(file) if line["definition"] == "published"}
    assert (printed["bottle"], printed["mine"], printed["mean"]) == ("100.0", "", "")

    small = miniature_settings(tmp_path / "small", datasets=["mvtec"])
    with (write_run(small, "mvtec", "mambaad", 0, {"I-AUROC": 0.9}) / "metrics.csv").open("a") as file:
        file.write("bottle,I-AUROC,published,0.987,\n")
    runs = finished_runs(tmp_path / "small")
    (table,) = class_tables(small, collect(runs), runs)
    assert dict(table.lines)["bottle"] == "98.7"


FACTS = {
    "commit": "0123456789ab",
    "config_sha256": "c" * 64,
    "data": {"sha256": "d" * 64},
    "weights": {"kind": "imagenet", "sha256": "e" * 64},
    "hardware": {"cpu": "A CPU", "threads": 8, "gpu": "A GPU"},
    "training": {
        "started": "2026-03-01T10:00:00+00:00",
        "wall_s": 7200,
        "peak_memory_mib": {"process": 1024, "gpu": 2048},
    },
    "evaluation": {"wall_s": 60},
    "versions": {"torch": "2.14.1"},
}


def with_record(settings, run: str, facts: dict, seed: int = 0):
    folder = write_run(settings, "mvtec", run, seed, {"mAD": 0.5})
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def test_a_record_tells_where_a_number_comes_from(settings, tmp_path):
    with_record(settings, "default", FACTS)
    (run,) = finished_runs(tmp_path)
    assert dict(zip(HEAD, record(run, tmp_path), strict=True)) == {
        "Run folder": "runs/mvtec/default/seed0",
        "Commit": "0123456789ab",
        "Configuration": "c" * 10,
        "Weights": "imagenet " + "e" * 10,
        "Data": "d" * 10,
        "Hardware": "A GPU",
        "Trained": "2026-03-01",
        "Time": "2.0 h",
        "Energy": "no counter",
        "Memory": "2.0 GiB (GPU)",
    }
    assert versions([run]) == {"torch": ["2.14.1"]}
    write_records([run], tmp_path, tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["folder"], line["config_sha256"], line["training_s"]) == ("runs/mvtec/default/seed0", "c" * 64, "7200")
    assert (line["gpu_mib"], line["energy_j"], line["weights_file"]) == ("2048", "", "")


def test_both_definitions_stand_side_by_side(settings, tmp_path):
    for seed, value in enumerate((0.5, 0.52)):
        exact = {"P-AP": value + 0.02, "AU-PRO": None}
        write_run(settings, "mvtec", "default", seed, {"P-AP": value, "AU-PRO": 0.9}, exact=exact, reason="no pixel")
    runs = finished_runs(tmp_path)
    found = both_definitions(summarise(collect(runs)), runs[:1])
    assert [found.head, *found.lines] == [
        ["Data set", "Run", "Definition", "P-AP", "AU-PRO"],
        ["MVTec-AD", "default", "published", "51.0 ± 1.4", "90.0 ± 0.0"],
        ["MVTec-AD", "default", "exact", "53.0 ± 1.4", "undefined"],
        ["MVTec-AD", "default", "difference", "\N{MINUS SIGN}2.0", "\N{EN DASH}"],
    ]


def test_what_was_not_recorded_is_a_dash(settings, tmp_path):
    with_record(settings, "default", {})
    (run,) = finished_runs(tmp_path)
    assert set(record(run, tmp_path)[1:]) == {"\N{EN DASH}", "timm \N{EN DASH}", "no counter"}


def test_energy_is_told_where_a_counter_was_read(settings, tmp_path):
    facts = FACTS | {"training": {"wall_s": 10, "energy_j": 3.6e6}, "evaluation": {"wall_s": 5, "energy_j": 1.8e6}}
    with_record(settings, "default", facts)
    (run,) = finished_runs(tmp_path)
    assert record(run, tmp_path)[HEAD.index("Energy")] == "1.50 kWh"
    (one,) = spent([run])
    assert (one.hardware, one.training_s, one.evaluation_s, one.energy_j) == ("A GPU", 10, 5, 5.4e6)


def test_what_is_left_is_estimated_from_what_was_recorded(settings, tmp_path):
    settings = paper_settings(tmp_path, datasets=["mvtec"], seeds=[0, 1])
    with_record(settings, "default", FACTS | {"training": {"wall_s": 3540}})  # an hour with its evaluation
    with_record(settings, "tokens_16", FACTS | {"training": {"wall_s": 1740}})  # half an hour
    runs = finished_runs(tmp_path)
    found = {cost.target: cost for cost in costs(settings, runs)}
    assert (found["table1"].done, found["table1"].left) == (1, 1)
    assert found["table1"].left_s == pytest.approx(3600)  # another seed of the same run
    # Both recorded runs have the same work by job_size, so a run of neither kind takes their median, scaled.
    deep = settings.runs["depths_6_12_11_9"].model["depths"]
    factor = relative_cost(
        runs[0].settings.model_copy(update={"model": runs[0].settings.model.model_copy(update={"depths": deep})})
    )
    factor /= relative_cost(runs[0].settings)
    single = {cost.target: cost for cost in costs(only(settings, "table6", "6-12-11-9 (38)"), runs)}["table6"]
    assert (single.done, single.left) == (0, 2)
    assert single.left_s == pytest.approx(2 * 2700 * factor)


def only(settings, table: str, label: str):
    """The configuration with a single row in a table."""
    entry = settings.tables[table]
    rows = [row for row in entry.rows if row.label == label]
    return settings.model_copy(update={"tables": {table: entry.model_copy(update={"rows": rows})}})


def test_without_a_record_nothing_is_guessed(settings):
    assert {cost.left_s for cost in costs(settings, [])} == {None}


EPOCHS = """epoch,metric,definition,value
100,mAD,published,0.80
100,P-AP,published,0.50
100,mAD,exact,0.99
200,mAD,published,0.85
200,P-AP,published,0.40
300,mAD,published,0.82
300,P-AP,published,0.60
"""


def test_the_oracle_is_one_epoch_for_all_metrics(settings, tmp_path):
    folder = write_run(settings, "mvtec", "default", 0, {"mAD": 0.82})
    (folder / "epochs.csv").write_text(EPOCHS)
    write_run(settings, "mvtec", "only_q", 0, {"mAD": 0.82})
    (oracle,) = oracles(finished_runs(tmp_path))
    assert (oracle.run.run, oracle.best_epoch, oracle.last_epoch) == ("default", 200, 300)
    assert oracle.best == pytest.approx({"mAD": 85, "P-AP": 40})  # though epoch 300 has P-AP 60
    assert oracle.last == pytest.approx({"mAD": 82, "P-AP": 60})


def test_a_damaged_record_of_epochs_is_named(settings, tmp_path):
    folder = write_run(settings, "mvtec", "default", 0, {"mAD": 0.82})
    (folder / "epochs.csv").write_text("epoch,value\n1,2\n")
    with pytest.raises(UserError, match=r"epochs\.csv: not written by `omniad train`"):
        oracles(finished_runs(tmp_path))


def test_a_damaged_provenance_is_named(settings, tmp_path):
    folder = write_run(settings, "mvtec", "default", 0, {"mAD": 0.82})
    (folder / "provenance.json").write_text("{")
    with pytest.raises(UserError, match=r"provenance\.json: damaged"):
        finished_runs(tmp_path)


def test_a_command_in_a_sentence_can_be_copied_from_both_reports():
    sentence = "Not run: [x](y). To run it: `snakemake all --config datasets='[mvtec,mvtec_ad_2]'`"
    assert markdown(sentence) == sentence.replace("[x]", r"\[x\]")
    assert inline(markdown(sentence)).endswith("datasets=&#39;[mvtec,mvtec_ad_2]&#39;</code>")
