"""A training that is killed, however and whenever, ends with the same bits as one that is not."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import (
    CPU,
    PATIENCE_S,
    assert_same,
    changed,
    history,
    start_training,
    tiles_run,
    wait_for,
    wait_until_it_trains,
)

import omniad.training.loop
import omniad.training.train
from omniad.errors import UserError
from omniad.models.omniad import OmniAD
from omniad.training.state import LATEST, PREVIOUS
from omniad.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve epochs of two steps, saved after every step."""
    return changed(tiles_run(tmp_path_factory.mktemp("data")), epochs=12, save_every_s=0.0)


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    train(changed(run, save_every_s=1e6), 0, out, CPU)
    return out


def kill_at_rename(number: int) -> None:
    """End this process as kill -9 would, just before a state's `number`-th rename."""
    rename, count = os.replace, 0

    def replace(source, target, **options):
        nonlocal count
        count += Path(target).name in (LATEST, PREVIOUS)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    os.replace = replace


def slow_steps() -> None:
    """Steps long enough that a signal finds the training at work."""
    step = omniad.training.loop.train_step

    def slow(*arguments):
        time.sleep(0.1)
        return step(*arguments)

    omniad.training.loop.train_step = slow


@pytest.mark.slow
def test_kill_9_at_random_moments(run, uninterrupted, tmp_path):
    moments, kills = random.Random(0), 0
    while kills < 8:
        process = start_training(run, tmp_path)
        wait_until_it_trains(process, tmp_path)
        process.join(moments.uniform(0.0, 0.3))
        if not process.is_alive():  # it has ended before it was killed
            assert process.exitcode == 0
            break
        process.kill()
        process.join()
        kills += 1
    train(run, 0, tmp_path, CPU)
    assert kills > 1
    assert_same(tmp_path, uninterrupted)


# The first save renames once; every later one moves the last state away (an even number), then renames (an odd one).
@pytest.mark.parametrize("rename", [1, 2, 3, 22, 41])
def test_kill_9_between_write_and_rename(run, uninterrupted, tmp_path, rename):
    process = start_training(run, tmp_path, kill_at_rename, rename)
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    assert list((tmp_path / "state").glob(f".{LATEST}.*"))  # what was written and never renamed
    train(run, 0, tmp_path, CPU)
    assert_same(tmp_path, uninterrupted)
    assert not list((tmp_path / "state").glob(f".{LATEST}.*"))
    resumes = json.loads((tmp_path / "provenance.json").read_text())["training"]["resumes"]
    assert resumes == (0 if rename == 1 else 1)  # a state was there but for the very first save


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(run, uninterrupted, tmp_path, number, status):
    process = start_training(changed(run, save_every_s=1e6), tmp_path, slow_steps)
    wait_for((tmp_path / "state" / "progress.json").exists, process)
    time.sleep(0.2)
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    assert process.exitcode == status
    assert not (tmp_path / "model.safetensors").exists()
    progress = json.loads((tmp_path / "state" / "progress.json").read_text())
    assert 0 < progress["step"] < progress["steps"] == 24
    train(run, 0, tmp_path, CPU)
    assert_same(tmp_path, uninterrupted)


def test_under_slurm_a_training_saves_and_lives_until_it_is_killed(run, uninterrupted, tmp_path):
    process = start_training(changed(run, save_every_s=1e6), tmp_path, slow_steps, SLURM_JOB_ID="1")
    wait_for((tmp_path / "state" / "progress.json").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    wait_for((tmp_path / "state" / LATEST).exists, process)
    process.join(0.5)
    assert process.is_alive()
    process.kill()
    process.join()
    train(run, 0, tmp_path, CPU)
    assert_same(tmp_path, uninterrupted)


def test_the_command_line_ends_with_the_shells_status(run, tmp_path):
    """The real command, stopped while it prepares or trains."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        json.dumps(
            {
                "datasets": ["tiles"],
                "sources": {"tiles": run.source.model_dump()},
                "data": run.data.model_dump(),
                "model": run.model.model_dump(),
                "training": changed(run, epochs=100_000).training.model_dump(),
            }
        )
    )
    command = [sys.executable, "-m", "omniad", "train", "--config", overlay, "--dataset", "tiles", "--run", "default"]
    out = tmp_path / "run"
    process = subprocess.Popen([*command, "--seed", "0", "--out", out], stderr=subprocess.PIPE, text=True)
    wait_for((out / "state" / LATEST).exists)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 143
    assert told.endswith("SIGTERM: stopped; rerun the same command to resume\n")


def interrupt(monkeypatch, step: int) -> None:
    """Let the training of this process fail before one of its steps."""
    original, count = omniad.training.loop.train_step, 0

    def fail(*arguments):
        nonlocal count
        count += 1
        if count > step:
            raise InterruptedError
        return original(*arguments)

    monkeypatch.setattr(omniad.training.loop, "train_step", fail)


class TwoOptimizers(OmniAD):
    """As methods with a discriminator have it: an optimizer with momentum beside AdamW, and their own rates."""

    def make_optimizers(self, training):
        return [
            torch.optim.SGD(self.neck.parameters(), lr=1e-3, momentum=0.9),
            torch.optim.AdamW(self.decoder.parameters(), lr=training.learning_rate),
        ]


@pytest.mark.parametrize("kind", ["released", "two optimizers"])
def test_random_projections_and_several_optimizers_go_on_too(run, tmp_path, monkeypatch, kind):
    few = changed(run, epochs=5)
    if kind == "released":
        few = few.model_copy(update={"model": few.model.model_copy(update={"variant": "released"})})
    else:
        monkeypatch.setattr(omniad.training.train, "build_model", TwoOptimizers)
    train(few, 0, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(InterruptedError):
            train(few, 0, tmp_path / "parts", CPU)
    train(few, 0, tmp_path / "parts", CPU)
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before_it(run, uninterrupted, tmp_path, monkeypatch, caplog, damage):
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        with pytest.raises(InterruptedError):
            train(run, 0, tmp_path, CPU)
    latest = tmp_path / "state" / LATEST
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes({"truncated": content[:-1000], "one byte": content, "empty": b""}[damage])
    with caplog.at_level(logging.INFO):
        train(run, 0, tmp_path, CPU)
    assert "latest.pt: damaged" in caplog.text
    assert "resuming after epoch 4, step 0" in caplog.text  # eight steps, not nine
    assert_same(tmp_path, uninterrupted)


def test_two_damaged_states_start_anew(run, uninterrupted, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        with pytest.raises(InterruptedError):
            train(run, 0, tmp_path, CPU)
    for name in (LATEST, PREVIOUS):
        (tmp_path / "state" / name).write_bytes(b"not a state")
    train(run, 0, tmp_path, CPU)
    assert caplog.text.count(": damaged") == 2
    assert_same(tmp_path, uninterrupted)


def test_a_state_of_other_settings_is_moved_aside(run, uninterrupted, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        with pytest.raises(InterruptedError):
            train(changed(run, learning_rate=0.005), 0, tmp_path, CPU)
    with caplog.at_level(logging.INFO):
        train(run, 0, tmp_path, CPU)
    assert "training.learning_rate was 0.005, now 0.001; moving it to state-" in caplog.text
    assert len(list(tmp_path.glob("state-*/latest.pt"))) == 1
    assert_same(tmp_path, uninterrupted)


def test_what_changes_no_number_is_no_other_training(run, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        with pytest.raises(InterruptedError):
            train(run, 0, tmp_path, CPU)
    train(changed(run, save_every_s=7.0, evaluate_every=12), 0, tmp_path, CPU)
    assert not list(tmp_path.glob("state-*"))
    assert_same(tmp_path, uninterrupted)


def test_another_version_of_training_starts_anew(run, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr("omniad.training.state.TRAINING_VERSION", -1)
        interrupt(patch, 3)
        with pytest.raises(InterruptedError):
            train(run, 0, tmp_path, CPU)
    with caplog.at_level(logging.INFO), monkeypatch.context() as patch:
        interrupt(patch, 0)
        with pytest.raises(InterruptedError):
            train(run, 0, tmp_path, CPU)
    assert "training_version was -1, now " in caplog.text


def test_a_finished_training_is_not_trained_again(run, uninterrupted, tmp_path, monkeypatch, caplog):
    few = changed(run, epochs=2)
    train(few, 0, tmp_path, CPU)
    model = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()  # as Snakemake does before it runs a rule again
    (tmp_path / "history.csv").unlink()
    interrupt(monkeypatch, 0)  # no step may be made
    with caplog.at_level(logging.INFO):
        train(few, 0, tmp_path, CPU)
    assert "already trained" in caplog.text
    assert (tmp_path / "model.safetensors").read_bytes() == model
    assert len(history(tmp_path)) == 2


def test_a_second_trainer_of_a_folder_is_refused_and_a_dead_one_is_none(run, tmp_path):
    process = start_training(changed(run, epochs=100_000), tmp_path)
    wait_for((tmp_path / "state" / LATEST).exists, process)
    with pytest.raises(
        UserError, match=f"in use by another process, pid {process.pid} on host {socket.gethostname()};"
    ):
        train(run, 0, tmp_path, CPU)
    process.kill()
    process.join()
    train(changed(run, epochs=1), 0, tmp_path, CPU)


def test_costs_are_those_of_all_parts_together(run, tmp_path, monkeypatch):
    few = changed(run, epochs=2)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(InterruptedError):
            train(few, 0, tmp_path, CPU)
    first = torch.load(tmp_path / "state" / LATEST, weights_only=True)["position"]
    train(few, 0, tmp_path, CPU)
    costs = json.loads((tmp_path / "provenance.json").read_text())["training"]
    assert costs["resumes"] == 1
    assert costs["wall_s"] > first["wall_s"] > 0
    assert 0 < costs["saving_s"] < costs["wall_s"]
    assert 0 <= costs["waiting_s"] < costs["wall_s"]
