"""The configuration: what is shipped is valid, and what is wrong is refused in words that help."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml

from omniad.cli import main
from omniad.config import (
    CONFIG_FOLDER,
    RunSettings,
    Settings,
    load_settings,
    merge,
    project_settings,
    read_yaml,
    run_settings,
    snapshot_text,
    to_yaml,
)
from omniad.config.reading import DEFAULT_FILES
from omniad.config.shown import Column
from omniad.errors import UserError
from omniad.metrics.definitions import METRICS
from omniad.reporting.complexity import COUNTS
from omniad.runs.provenance import load_run_settings
from omniad.runs.targets import target_runs

OVERLAYS = sorted(file for file in CONFIG_FOLDER.glob("*.yaml") if file.name not in DEFAULT_FILES)


@pytest.fixture
def overlay(tmp_path):
    """Write an overlay file and return its path."""

    def write(values) -> Path:
        file = tmp_path / "overlay.yaml"
        file.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return file

    return write


def test_the_project_file_spells_out_the_defaults():
    spelled = read_yaml(CONFIG_FOLDER / "config.yaml")
    defaults = Settings().model_dump()
    for group in ("title", "results", "datasets", "seeds", "data", "model", "training", "evaluation"):
        assert spelled[group] == defaults[group], group


def test_the_protocol_is_the_papers():
    settings = load_settings()
    default = run_settings(settings, "mvtec", "default")
    assert default.data.image_size == 256  # section IV-A
    assert (default.model.encoder, default.model.depths, default.model.tokens) == ("resnet34", [3, 9, 9, 7], 64)
    assert (default.training.epochs, default.training.learning_rate, default.training.weight_decay) == (500, 1e-3, 1e-4)
    epochs = {name: run_settings(settings, name, "released").training.epochs for name in settings.datasets}
    assert epochs == {"mvtec": 1000, "visa": 1000, "realiad": 100}


def test_19_trainings_a_seed_serve_all_tables():
    settings = load_settings()
    rows = target_runs(settings)["all"]
    assert len(rows) == 19
    assert len({run for dataset, run in rows if dataset == "mvtec"} - {"default"}) == 16


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.name)
def test_every_shipped_overlay_and_run_is_valid(file):
    settings = load_settings(file)
    for dataset in settings.datasets:
        for run in settings.runs:
            assert run_settings(settings, dataset, run).run == run


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"trainng": {}}, ["unknown key 'trainng'", "training"]),
        ({"training": {"epoch": 3}}, ["unknown key 'training.epoch'", "epochs"]),
        ({"training": {"epochs": "3"}}, ["'training.epochs'", "integer", "'3'"]),
        ("training: {learning_rate: 1e-3}", ["'training.learning_rate'", "0.001"]),
        ({"training": {"epochs": 0}}, ["'training.epochs'", "greater than or equal to 1"]),
        ({"training": {"learning_rate": float("nan")}}, ["'training.learning_rate'", "finite"]),
        ({"seeds": 0}, ["'seeds' should be a list, as [0], not 0"]),
        ({"datasets": "visa"}, ["'datasets' should be a list, as [visa], not 'visa'"]),
        ({"model": {"tokens": 50}}, ["'model.tokens'", "square", "50"]),
        ({"model": {"depths": [3, 9, 9]}}, ["'model.depths'", "four numbers"]),
        ({"model": {"encoder": "resnet35"}}, ["'model.encoder'", "resnet34", "'resnet35'"]),
        ({"data": {"image_size": 250}}, ["'data.image_size'", "32"]),
        ({"runs": {"mine": {"model": {"token": 16}}}}, ["'runs.mine.model.token'", "tokens"]),
        ({"runs": {"mine": {"modle": {}}}}, ["'runs.mine.modle'", "model"]),
        ({"runs": {"mine": {"per_dataset": {"btad": {}}}}}, ["runs.mine.per_dataset", "'btad'", "mvtec"]),
        ({"tables": {"table1": {"rows": [{"labl": "x"}]}}}, ["'tables.table1.rows.0.labl'", "label"]),
        ({"tables": {"table4": {"rows": [{"label": "16", "run": "tokens16"}]}}}, ["'tokens16'", "tokens_16"]),
        (
            {"tables": {"table4": {"paper": "tabel4.csv"}}},
            ["tables.table4.paper", "'tabel4.csv'", "table4.csv, table5"],
        ),
        ({"tables": {"table4": {"columns": ["FLOPS"]}}}, ["'tables.table4.columns.0'", "FLOPs", "'FLOPS'"]),
        (
            {"tables": {"table1": {"rows": [{"label": "RLR", "run": "rlr", "target": "table1_baselnes"}]}}},
            ["tables.table1", "'RLR'", "'table1_baselnes'", "choose from: table1_baselines"],
        ),
        ({"figures": {"figure3": {"run": "defalt"}}}, ["figures.figure3.run", "'defalt'", "default"]),
        ({"figures": {"figure3": {"datasets": ["vsa"]}}}, ["figures.figure3.datasets", "'vsa'", "visa"]),
        (
            {"runs": {"released": {"per_dataset": {"visa": {"training": {"epoch": 3}}}}}},
            ["'runs.released.per_dataset.visa.training.epoch'", "epochs"],
        ),
        ({"sources": {"mvtec": {"fodler": "x"}}}, ["'sources.mvtec.fodler'", "folder"]),
        ({"datasets": ["mvtek"]}, ["'mvtek'", "choose from: mvtec, "]),
        ({"datasets": ["mvtec", "mvtec"]}, ["'datasets'", "twice"]),
        ({"seeds": []}, ["'seeds' must not be empty"]),
        ({"seeds": 0}, ["'seeds'", "list"]),
        ("- a\n- b\n", ["must contain keys and values"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_told_with_its_path_and_what_is_allowed(overlay, values, told):
    with pytest.raises(UserError) as error:
        load_settings(overlay(values))
    assert all(text in str(error.value) for text in [*told, "overlay.yaml"]), error.value
    assert "\n" not in str(error.value)


def test_all_mistakes_are_told_at_once(overlay):
    with pytest.raises(UserError) as error:
        load_settings(overlay({"training": {"epoch": 1}, "model": {"tokens": 50}}))
    assert "training.epoch" in str(error.value)
    assert "model.tokens" in str(error.value)


def test_a_mistake_is_told_with_the_file_in_which_it_stands(monkeypatch, tmp_path):
    shutil.copytree(CONFIG_FOLDER, tmp_path / "config")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("omniad.config.reading.CONFIG_FOLDER", tmp_path / "config")
    for name, old, new in [
        ("config.yaml", "  tokens: 64", "  tokns: 64"),
        ("runs.yaml", "{ tokens: 16 }", "{ tokens: 17 }"),
        ("tables.yaml", "&cost [parameters,", "&cost [parametres,"),
    ]:
        file, overlay = tmp_path / "config" / name, tmp_path / "overlay.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        overlay.write_text("training: {epochs: 3}")
        with pytest.raises(UserError) as error:
            load_settings(overlay, command_line={"seeds": [0]})
        assert str(error.value).startswith(f"config/{name}: "), error.value
        file.write_text(text)


def test_mistakes_in_two_files_are_told_with_each(overlay):
    with pytest.raises(UserError) as error:
        load_settings(overlay({"model": {"tokens": 50}}), command_line={"seeds": []})
    assert "--config: 'seeds' must not be empty" in str(error.value)
    assert "overlay.yaml: 'model.tokens' must be a square" in str(error.value)


def test_a_tables_columns_are_what_is_measured_or_counted():
    assert get_args(Column) == (*METRICS, *COUNTS)


def test_unknown_runs_and_data_sets_name_those_that_exist():
    settings = load_settings()
    with pytest.raises(UserError, match=r"unknown 'tokens_64'.*tokens_16"):
        run_settings(settings, "mvtec", "tokens_64")
    with pytest.raises(UserError, match=r"unknown 'btad'.*mvtec, .*, visa, realiad"):
        run_settings(settings, "btad", "default")
    with pytest.raises(UserError, match=r"absent.yaml: no such file"):
        load_settings("absent.yaml")


def test_yaml_from_strangers_executes_nothing(overlay, tmp_path):
    with pytest.raises(UserError, match="not valid YAML"):
        load_settings(overlay(f"title: !!python/object/apply:os.mkdir ['{tmp_path}/made']"))
    assert not (tmp_path / "made").exists()


def test_a_run_folder_keeps_its_settings(tmp_path):
    settings = run_settings(load_settings(), "visa", "kv_q")
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    assert load_run_settings(tmp_path) == settings
    assert isinstance(settings, RunSettings)


def test_merge_goes_key_by_key_and_replaces_lists():
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4}) == {"a": {"b": 1, "c": [3]}, "d": 4}


def test_outside_a_checkout_the_defaults_stand_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("omniad.config.reading.CONFIG_FOLDER", tmp_path / "absent")
    for settings in (load_settings(), load_settings_without_sources(tmp_path)):
        assert settings.training.epochs == 500
    with pytest.raises(UserError, match="in a checkout of omniad, or give a complete configuration"):
        project_settings()
    assert list(project_settings(tmp_path / "own.yaml").sources) == ["mine"]


def load_settings_without_sources(folder: Path) -> Settings:
    """Defaults alone name three data sets and no source of them: an overlay brings its own."""
    file = folder / "own.yaml"
    source = {"title": "Mine", "layout": "mvtec", "folder": "parts"}
    file.write_text(yaml.safe_dump({"datasets": ["mine"], "sources": {"mine": source}}))
    return load_settings(file)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, whose config/ a test may edit, and the snapshot that its workflow wrote."""
    shutil.copytree(CONFIG_FOLDER, tmp_path / "config")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("omniad.config.reading.CONFIG_FOLDER", tmp_path / "config")
    (tmp_path / "snapshot.yaml").write_text(snapshot_text(load_settings()))
    return tmp_path


def learning_rate(*files) -> float:
    return run_settings(load_settings(*files), "mvtec", "tokens_16").training.learning_rate


def test_an_edit_of_config_changes_no_snapshot(project):
    snapshot, runs = project / "snapshot.yaml", project / "config" / "runs.yaml"
    text = runs.read_text()
    runs.write_text(text.replace("model: { tokens: 16 }", "model: { tokens: 16 }, training: { learning_rate: 0.5 }"))
    assert learning_rate() == 0.5
    assert learning_rate(snapshot) == 0.001
    runs.write_text(text.replace("tokens_16:", "renamed:"))
    assert learning_rate(snapshot) == 0.001


def test_a_snapshot_prints_the_same_bytes_whatever_config_holds(project, capsys):
    for edited in ("config.yaml", "runs.yaml", "tables.yaml"):
        (project / "config" / edited).write_text("")
    assert main(["settings", "--config", str(project / "snapshot.yaml")]) == 0
    assert capsys.readouterr().out == (project / "snapshot.yaml").read_text()


def test_overlays_may_follow_a_snapshot_and_not_precede_it(project):
    (project / "overlay.yaml").write_text("training: {learning_rate: 0.25}\n")
    files = project / "snapshot.yaml", project / "overlay.yaml"
    assert learning_rate(*files) == 0.25
    with pytest.raises(UserError, match=r"snapshot\.yaml: a snapshot is a complete configuration: name it before"):
        load_settings(*reversed(files))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values.pop("snapshot"), "its format is older than 1, not 1"),
        (lambda values: values.update(snapshot=2), "its format is 2, not 1"),
        (lambda values: values["training"].pop("clip_norm"), r"it lacks training\.clip_norm"),
    ],
)
def test_a_snapshot_of_another_version_is_refused_with_what_to_do(project, change, told):
    file = project / "snapshot.yaml"
    values = yaml.safe_load(file.read_text())
    change(values)
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=rf"snapshot\.yaml: .*{told}.*run snakemake again"):
        load_settings(file)
