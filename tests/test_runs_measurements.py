"""From run folders to one tidy table."""

import csv

import pytest
from reporting_results import paper_settings, write_run

from omniad.errors import UserError
from omniad.reporting.complexity import read_complexity, write_complexity
from omniad.runs.finished import finished_runs
from omniad.runs.measurements import collect, write_measurements


@pytest.fixture
def settings(tmp_path):
    return paper_settings(tmp_path / "results")


def test_all_runs_become_lines_of_one_file(settings, tmp_path):
    write_run(settings, "visa", "default", 0, {"P-AP": 0.5}, exact={"P-AP": 0.625})
    write_run(settings, "mvtec", "default", 10, {"P-AP": None}, reason="no anomalous image")
    write_run(settings, "mvtec", "default", 2, {"P-AP": 0.25})
    out = tmp_path / "measurements.csv"
    write_measurements(collect(finished_runs(settings.results)), out)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["dataset", "run", "seed", "class", "metric", "definition", "value", "reason", "spread"]
    means = [
        (line["dataset"], line["seed"], line["definition"], line["value"], line["reason"])
        for line in lines
        if line["class"] == "mean"
    ]
    assert means == [
        ("mvtec", "2", "exact", "0.25", ""),
        ("mvtec", "2", "published", "0.25", ""),
        ("mvtec", "10", "exact", "", "no anomalous image"),
        ("mvtec", "10", "published", "", "no anomalous image"),
        ("visa", "0", "exact", "0.625", ""),
        ("visa", "0", "published", "0.5", ""),
    ]


def test_without_runs_there_is_only_the_head(tmp_path):
    out = tmp_path / "measurements.csv"
    write_measurements([], out)
    assert out.read_text() == "dataset,run,seed,class,metric,definition,value,reason,spread\n"


def test_a_run_that_was_not_evaluated_is_left_out(settings):
    folder = write_run(settings, "mvtec", "default", 0, {"P-AP": 0.5})
    write_run(settings, "mvtec", "default", 1, {"P-AP": 0.5})
    (folder / "metrics.csv").unlink()
    assert [run.seed for run in finished_runs(settings.results)] == [1]


@pytest.mark.parametrize("value", ["1.21", "-0.1", "inf"])
def test_a_value_outside_its_range_is_refused(settings, value):
    folder = write_run(settings, "mvtec", "default", 0, {"AU-PRO": 0.5})
    text = (folder / "metrics.csv").read_text().replace("0.5", value)
    (folder / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv: .*AU-PRO of class 'mean': .* is not in \[0, 1\]"):
        collect(finished_runs(settings.results))


def test_a_file_with_other_columns_is_refused(settings):
    folder = write_run(settings, "mvtec", "default", 0, {"AU-PRO": 0.5})
    (folder / "metrics.csv").write_text("class,metric\nmean,AU-PRO\n")
    with pytest.raises(UserError, match=r"metrics\.csv: not written by `omniad evaluate`"):
        collect(finished_runs(settings.results))


def test_further_columns_of_a_run_are_allowed(settings):
    folder = write_run(settings, "mvtec", "default", 0, {})
    (folder / "metrics.csv").write_text("class,metric,definition,value,reason,spread\nmean,P-AP,exact,0.5,,0.01\n")
    (line,) = collect(finished_runs(settings.results))
    assert (line.metric, line.value, line.reason) == ("P-AP", 0.5, "")


def test_complexity_is_read_back_in_the_tables_units(tmp_path):
    row = {"table": "table4", "row": "64", "variant": "released", "parameters": 29_926_912, "macs": 11_157_291_008}
    write_complexity([row | {"reported_parameters_m": 29.9, "reported_flops_g": None}], tmp_path / "complexity.csv")
    counts = read_complexity(tmp_path / "complexity.csv")
    assert counts == {("table4", "64", "released"): {"parameters": 29.926912, "FLOPs": 11.157291008}}


def test_complexity_that_was_not_counted_is_empty_and_a_broken_file_is_named(tmp_path):
    assert read_complexity(tmp_path / "complexity.csv") == {}
    (tmp_path / "complexity.csv").write_text("table,row\ntable4,64\n")
    with pytest.raises(UserError, match=r"complexity\.csv: not written by `omniad complexity`"):
        read_complexity(tmp_path / "complexity.csv")
