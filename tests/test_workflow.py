"""The workflow as a person types it: what would run, what does run, and what never runs again without need."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import project_copy
import pytest
import yaml
from project_copy import TINY, copy_project, jobs


def snakemake(folder: Path, *arguments: str, expect: int = 0) -> str:
    return project_copy.snakemake(folder, "--cores", "all", *arguments, expect=expect)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """In a folder, and with an environment there, whose names a shell takes apart unless they are quoted."""
    folder = copy_project(tmp_path_factory.mktemp("clone") / 'it\'s a "tést" & $HOME')
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def finished(clone) -> Path:
    """That clone after table1 and table4 of the tiny demo; while it ran, config/runs.yaml was edited."""
    (clone / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    both = ("table1", "table4", "--cores", "all", "--resources", "gpu=2")  # two at a time, as `make demo`
    process = project_copy.start_snakemake(clone, *both, *DEMO)
    while not list((clone / "results/demo/runs/mvtec").glob("*/seed0/config.yaml")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    with learning_rate_of_table_iv_edited(clone):
        output = process.communicate()[0]
    assert process.returncode == 0, output
    return clone


@contextmanager
def learning_rate_of_table_iv_edited(folder: Path) -> Iterator[None]:
    """Three runs of config/runs.yaml get another learning rate; the default run, their fourth, keeps it."""
    file = folder / "config/runs.yaml"
    text = file.read_text()
    edited, count = re.subn(r"model: (\{ tokens: \d+ \}) \}", r"model: \1, training: { learning_rate: 0.5 } }", text)
    assert count == 3
    file.write_text(edited)
    yield
    file.write_text(text)


DEMO = ("--configfile", "config/demo.yaml", "tiny.yaml")


def test_a_dry_run_needs_no_data(clone):
    assert jobs(snakemake(clone, "table1", "-n"))["train"] == 3 * 3
    assert jobs(snakemake(clone, "ablations", "-n"))["train"] == 17 * 3  # 16 ablations and the default, three seeds
    assert jobs(snakemake(clone, "-n"))["train"] == 19 * 3
    assert jobs(snakemake(clone, "table1_released", "-n"))["train"] == 3 * 3
    torchvision = snakemake(clone, "table1_default_torchvision", "-n", "--config", "seeds=[0]")
    assert jobs(torchvision)["train"] == 3
    assert "resnet34-b627a593.pth" in torchvision


def test_destseg_waits_for_its_textures_and_its_variant_does_not(clone):
    output = snakemake(clone, "table1_baselines", "-n", "--config", "seeds=[0]", "datasets=[mvtec]")
    assert (jobs(output)["fetch"], jobs(output)["extract"]) == (2, 2)  # MVTec-AD, DTD
    assert "data/prepared/dtd/extracted.json" in output
    assert "fetch" not in jobs(snakemake(clone, "table1_baselines", "-n", *DEMO[:2]))


def test_seeds_and_data_sets_can_be_chosen(clone):
    chosen = jobs(snakemake(clone, "table1", "-n", "--config", "seeds=[0]", "datasets=[mvtec]"))
    assert (chosen["train"], chosen["pack"]) == (1, 1)


def test_the_cluster_profile_is_found_and_needs_no_other_option(clone):
    output = project_copy.snakemake(clone, "-n", "--profile", "slurm", "ablations")
    assert jobs(output)["train"] == 17 * 3
    wide = r"rule train:(?:\n .*)*run=wide_resnet50_2.*(?:\n .*)*runtime=(\d+)"
    assert re.findall(wide, output) == ["1440"] * 3  # no more than the profile's default, whatever the plan says
    longer = project_copy.snakemake(
        clone, "-n", "--profile", "slurm", "ablations", "--default-resources", "runtime=20d"
    )
    assert int(re.findall(wide, longer)[0]) > 1440


def test_the_cluster_profiles_commented_lines_work_when_the_mark_is_taken_away(clone):
    text = (clone / "slurm/config.yaml").read_text()
    edited = re.sub(r"^( *)# (slurm_|set-resources|  train:|  evaluate:)", r"\1\2", text, flags=re.MULTILINE)
    assert edited.count("\n#") < text.count("\n#")
    (clone / "edited").mkdir()
    (clone / "edited/config.yaml").write_text(edited)
    output = project_copy.snakemake(clone, "-n", "--profile", "edited", "table5", "--config", "seeds=[0]")
    for rule in ("train", "evaluate"):
        (resources,) = set(re.findall(rf"rule {rule}:(?:\n .*)*gpu_model=(\w+)", output))
        assert resources == "a100"
    assert "slurm_account=my_account" in output
    assert "slurm_partition=gpu" in output


def test_targets_that_train_nothing(clone):
    for target in ("data", "complexity", "report"):
        assert "train" not in jobs(snakemake(clone, target, "-n"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "sedes=[0]"], "unknown key 'sedes'"),
        (
            ["--config", "datasets=[mvtek]"],
            "unknown 'mvtek'; choose from: mvtec, mvtec_ad_2, mvtec_loco, visa, realiad",
        ),
        (
            ["--config", "datasets=[mvtec]", "classes=[botle]"],
            "classes of MVTec-AD: unknown 'botle'; choose from: bottle",
        ),
        (["--config", "model={tokens: 50}"], "'model.tokens' must be a square"),
        (["--config", "tables={table4: {columns: [FLOPS]}}"], "--config: 'tables.table4.columns.0' should be"),
        (["--config", "tables={table7: {columns: [mAD]}}"], "column of tables.table7: unknown 'parameters'"),
        (["tabel1"], "unknown target 'tabel1' (did you mean table1?); choose from: ablations, all"),
    ],
)
def test_a_typo_is_told(clone, arguments, told):
    output = snakemake(clone, "-n", *arguments, expect=1)
    assert told in output
    assert "Traceback (most recent call" not in output


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path, clone):
    shutil.copytree(clone, tmp_path / "fresh", ignore=shutil.ignore_patterns("results", ".snakemake", ".venv"))
    file = tmp_path / "fresh/config/runs.yaml"
    file.write_text(file.read_text() + "\tmine: {}\n")
    output = snakemake(tmp_path / "fresh", "-n", expect=1)
    assert re.search(rf"config/runs\.yaml: not valid YAML \(.*line {len(file.read_text().splitlines())}\b", output), (
        output
    )


def test_without_data_all_that_is_missing_is_told_and_nothing_is_left(tmp_path, clone, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing answers there: no network, wherever this runs
    shutil.copytree(clone, tmp_path / "fresh", ignore=shutil.ignore_patterns("results", ".snakemake", ".venv"))
    output = snakemake(tmp_path / "fresh", "table1", expect=1)
    for told in (
        "MVTec-AD",
        "VisA",
        "Real-IAD",
        "mvtec_anomaly_detection.tar.xz",
        "VisA_20220922.tar",
        "huggingface.co",
    ):
        assert told in output, output
    assert "resnet34-43635321.pth" in output
    assert "data/weights/" in output
    assert "make demo" in output
    assert "Traceback (most recent call" not in output
    assert not (tmp_path / "fresh" / "results").exists()
    assert not (tmp_path / "fresh" / "data").exists()


def test_on_a_cpu_it_says_how_long_real_data_take(tmp_path, clone, monkeypatch):
    """Before the first job, which here ends it: the data set's folder holds no images."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fresh = shutil.copytree(clone, tmp_path / "fresh", ignore=shutil.ignore_patterns("results", ".snakemake", ".venv"))
    (fresh / "data/mvtec").mkdir(parents=True)
    (fresh / "data/mvtec/readme.txt").touch()
    small = {"method": "padim", "encoder": "resnet18", "encoder_width": 8, "encoder_weights": "random"}
    overlay = {"datasets": ["mvtec"], "seeds": [0], "model": small, "sources": {"mvtec": {"folder": "data/mvtec"}}}
    (fresh / "small.yaml").write_text(yaml.safe_dump(overlay))
    weights = "results/runs/mvtec/default/seed0/model.safetensors"
    output = snakemake(fresh, weights, "--configfile", "small.yaml", expect=1)
    assert re.search(r"No GPU: 1 trainings run on the CPU, 1 at a time\. That takes about \d", output), output
    assert "no <class>/train/good" in output


@pytest.mark.parametrize(
    ("visible", "options", "places"), [(None, [], 2), ("1", [], 1), (None, ["--resources", "gpu=5"], 5)]
)
def test_as_many_trainings_at_once_as_there_are_gpus(clone, tmp_path, monkeypatch, visible, options, places):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-1)'\necho 'GPU 1: X (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "no_data.yaml").write_text("sources: {mvtec: {folder: nowhere, url: ''}}\n")
    # It tells what it has, and ends: there are no data.
    output = snakemake(clone, "table2", *options, "--configfile", str(tmp_path / "no_data.yaml"), expect=1)
    assert re.search(rf'Provided resources: gpu=(Resource\("gpu", )?{places}\b', output), output


@pytest.mark.slow
class TestFinished:
    def test_the_report_is_there(self, finished):
        report = (finished / "results/demo/report.md").read_text()
        assert all(f"Table {number}" in report for number in ("I", "II", "III", "IV", "V", "VI", "VII"))
        assert "not run" in report  # Table II's rows were not asked for

    def test_an_edit_of_config_while_it_ran_changed_none_of_its_runs(self, finished):
        files = finished.glob("results/demo/runs/mvtec/*/seed0/config.yaml")
        rates = {
            file.parent.parent.name: yaml.safe_load(file.read_text())["training"]["learning_rate"] for file in files
        }
        assert list(rates.values()) == [0.002] * 4  # the demo's
        with learning_rate_of_table_iv_edited(finished):  # the next call takes the edit
            assert jobs(snakemake(finished, "table4", "-n", *DEMO))["train"] == 3

    def test_a_second_time_there_is_nothing_to_do(self, finished):
        assert "Nothing to be done" in snakemake(finished, "table1", "table4", *DEMO)

    def test_an_edit_of_a_rules_text_retrains_nothing(self, finished):
        rule = finished / "workflow/rules/train.smk"
        text = rule.read_text()
        rule.write_text(text.replace('"{OMNIAD} train', '"{OMNIAD}  train') + "\n# a remark\n")
        assert rule.read_text() != text
        assert "Nothing to be done" in snakemake(finished, "table1", "table4", "-n", *DEMO)
        rule.write_text(text)

    def test_an_edit_of_the_reporting_code_makes_the_report_alone(self, finished):
        code = finished / "omniad/reporting/report.py"
        text = code.read_text()
        code.write_text(text + "\n# a remark\n")
        planned = jobs(snakemake(finished, "table1", "table4", "-n", *DEMO))
        assert {"report"} <= set(planned) <= {"report", "table1", "table4"}
        code.write_text(text)

    def test_a_changed_hyper_parameter_retrains_exactly_the_runs_that_have_it(self, finished):
        change = finished / "change.yaml"
        change.write_text(yaml.safe_dump({"runs": {"tokens_16": {"training": {"learning_rate": 0.003}}}}))
        output = snakemake(finished, "table1", "table4", "-n", *DEMO, "change.yaml")
        assert jobs(output)["train"] == 1
        assert "run=tokens_16" in output
        change.write_text(yaml.safe_dump({"training": {"learning_rate": 0.003}}))
        assert jobs(snakemake(finished, "table1", "table4", "-n", *DEMO, "change.yaml"))["train"] == 4

    def test_another_seed_trains_only_that_seed(self, finished):
        planned = jobs(snakemake(finished, "table4", "-n", "--config", "seeds=[0, 1]", *DEMO))
        assert planned["train"] == 4
        assert "miniature" not in planned

    def test_snakemakes_own_report_holds_ours(self, finished):
        snakemake(finished, "table1", "table4", "--report", "snakemake.html", *DEMO)
        page = (finished / "snakemake.html").read_text()
        for part in ("report.html", "measurements.csv", "table1.csv", "resolution.png"):
            assert part in page

    def test_report_alone_shows_what_exists_and_trains_nothing(self, finished):
        output = snakemake(finished, "report", *DEMO)
        assert set(jobs(output)) <= {"report"}
        assert "not run" in (finished / "results/demo/report.md").read_text()

    def test_another_smoothing_evaluates_with_it_and_trains_nothing(self, finished):
        """The last test, because it changes what the others read."""
        run = "results/demo/runs/mvtec/tokens_16/seed0"
        weights = (finished / run / "model.safetensors").read_bytes()
        history = (finished / run / "history.csv").read_bytes()
        change = finished / "smoothing.yaml"
        change.write_text(yaml.safe_dump({"runs": {"tokens_16": {"evaluation": {"sigma": 1.0}}}}))
        scores = (finished / run / "scores.csv").read_text()
        snakemake(finished, f"{run}/metrics.csv", *DEMO, "smoothing.yaml")
        assert yaml.safe_load((finished / run / "config.yaml").read_text())["evaluation"]["sigma"] == 1.0
        assert (finished / run / "model.safetensors").read_bytes() == weights
        assert (finished / run / "history.csv").read_bytes() == history
        assert (finished / run / "scores.csv").read_text() != scores
