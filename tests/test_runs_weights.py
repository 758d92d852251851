"""What belongs to one set of weights never stays beside another."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from reporting_results import paper_settings, write_run
from training_runs import CPU, changed, tiles_run

from omniad.bundle import bundle
from omniad.detector.detector import Detector
from omniad.detector.threshold import Threshold, write_threshold
from omniad.errors import UserError
from omniad.evaluation.evaluate import evaluate
from omniad.reporting.report import gather
from omniad.runs.weights import measured_others
from omniad.status import run_statuses
from omniad.training.train import train

MEASURED = {"metrics.csv", "scores.csv", "curves.npz", "examples/tile.npz", "maps/tile.npy"}


def results(folder: Path) -> dict[str, bytes]:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if not name.startswith("state")}


def provenance(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return changed(tiles_run(tmp_path_factory.mktemp("data")), epochs=1, evaluate_every=1)


def test_what_an_earlier_training_left_is_gone_before_a_new_one_starts(run, tmp_path, monkeypatch):
    train(run, 0, tmp_path, CPU)
    evaluate(tmp_path, CPU, keep_maps=True)
    sha256 = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert provenance(tmp_path)["evaluation"]["model_sha256"] == sha256 == provenance(tmp_path)["model_sha256"]
    write_threshold(tmp_path, Threshold(0.5, 0.99, 3, 0.1, {}))
    before = results(tmp_path)
    assert before.keys() >= MEASURED | {"threshold.json", "epochs.csv"}

    train(run, 0, tmp_path, CPU)  # it is finished: nothing is lost
    assert results(tmp_path).keys() == before.keys()
    kept = MEASURED | {"threshold.json", "epochs.csv", "model.safetensors"}
    assert {name: results(tmp_path)[name] for name in kept} == {name: before[name] for name in kept}

    seen = []

    def first_step(*arguments):
        seen.append(set(results(tmp_path)))
        raise KeyboardInterrupt

    monkeypatch.setattr("omniad.training.loop.train_step", first_step)
    other = changed(run, learning_rate=1e-4, evaluate_every=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, 0, tmp_path, CPU)
    assert seen == [{"config.yaml", ".lock"}]  # and state/, in which the old weights are kept
    monkeypatch.undo()
    train(other, 0, tmp_path, CPU)
    assert set(results(tmp_path)) == {"config.yaml", "model.safetensors", "history.csv", "provenance.json"}
    assert "evaluation" not in provenance(tmp_path)


def test_what_was_measured_otherwise_than_the_settings_now_say_is_gone(run, tmp_path):
    """A finished training is only written again, with the new settings; its metrics would be of the old ones."""
    train(run, 0, tmp_path, CPU)
    evaluate(tmp_path, CPU, keep_maps=True)
    weights = (tmp_path / "model.safetensors").read_bytes()

    def again(**changes) -> set[str]:
        evaluation = run.evaluation.model_copy(update=changes)
        train(run.model_copy(update={"evaluation": evaluation}), 0, tmp_path, CPU)
        return MEASURED & set(results(tmp_path))

    assert again(batch_size=1) == MEASURED  # which changes no number
    assert again(sigma=1.0) == set()
    evaluate(tmp_path, CPU, keep_maps=True)
    (tmp_path / "config.yaml").write_text("of: another version")
    assert again(sigma=1.0) == set()
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_weights_put_there_by_hand_are_measured_alone(run, tmp_path):
    for seed in (0, 1):
        train(run, seed, tmp_path / str(seed), CPU)
    folder = tmp_path / "0"
    evaluate(folder, CPU, keep_maps=True)
    (folder / "examples" / "class_of_old.npz").write_bytes(b"old")
    evaluate(folder, CPU)
    assert (folder / "maps" / "tile.npy").exists()  # of the same weights
    (tmp_path / "1" / "model.safetensors").replace(folder / "model.safetensors")
    assert "other weights" in measured_others(folder, provenance(folder), thorough=True)
    evaluate(folder, CPU)
    assert not (folder / "maps").exists()
    assert not (folder / "examples" / "class_of_old.npz").exists()
    assert measured_others(folder, provenance(folder) | {"model_sha256": None}, thorough=True) == ""


def test_weights_that_change_while_they_are_measured_give_no_metrics(run, tmp_path, monkeypatch):
    train(run, 0, tmp_path, CPU)
    picked = []

    def replace(*arguments):
        (tmp_path / "model.safetensors").write_bytes(b"of another training")
        return picked

    monkeypatch.setattr("omniad.evaluation.evaluate.pick_examples", replace)
    monkeypatch.setattr("omniad.evaluation.evaluate.write_examples", lambda *arguments: None)
    with pytest.raises(UserError, match="changed during the evaluation"):
        evaluate(tmp_path, CPU)
    assert not (tmp_path / "metrics.csv").exists()
    assert "evaluation" not in provenance(tmp_path)


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> Path:
    """A run whose metrics are of other weights than those in its folder."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(paper_settings(Path("results")), "mvtec", "default", 0, {"mAD": 0.75}).resolve()
    (folder / "model.safetensors").write_bytes(b"new")
    facts = provenance(folder) | {"evaluation": {"model_sha256": hashlib.sha256(b"old").hexdigest()}}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def test_metrics_of_other_weights_are_neither_reported_nor_bundled_nor_done(mixed, tmp_path):
    settings = paper_settings(Path("results"))
    content = gather(settings)
    assert content.runs == [] and "measured with other weights" in content.left_out[0]
    status = next(one for one in run_statuses(settings, "table1") if one.folder.resolve() == mixed)
    assert status.state == "trained" and "evaluate the run again" in status.detail
    with pytest.raises(UserError, match="measured with other weights"):
        bundle([mixed], tmp_path / "b.zip")


def test_weights_older_than_the_metrics_are_believed_to_be_the_training_s(mixed):
    metrics = (mixed / "metrics.csv").stat()
    os.utime(mixed / "model.safetensors", (0, metrics.st_mtime - 10))
    sha256 = hashlib.sha256(b"old").hexdigest()
    assert measured_others(mixed, provenance(mixed) | {"model_sha256": sha256}) == ""
    assert measured_others(mixed, provenance(mixed) | {"model_sha256": "another"}) != ""
    assert measured_others(mixed, provenance(mixed) | {"model_sha256": sha256}, thorough=True) != ""


def test_a_threshold_of_other_weights_is_refused_but_not_one_by_hand(run, tmp_path):
    train(run, 0, tmp_path, CPU)
    sha256 = provenance(tmp_path)["model_sha256"]
    write_threshold(tmp_path, Threshold(0.5, 0.99, 3, 0.1, {}, sha256))
    assert Detector(tmp_path, "cpu").threshold == 0.5
    write_threshold(tmp_path, Threshold(0.5, 0.99, 3, 0.1, {}, "0" * 64))
    with pytest.raises(UserError, match="belongs to other weights; run `omniad fit` again"):
        Detector(tmp_path, "cpu")
    by_hand = Detector(tmp_path, "cpu", threshold=2.0)
    assert (by_hand.threshold, by_hand.typical) == (2.0, None)
