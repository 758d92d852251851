"""A machine that fails: full disks, no locks, no memory, a reader that has gone, states and seeds that are none."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detector_runs import make_run
from training_runs import CPU, changed, tiles_run

import omniad.training.cost
from omniad import devices
from omniad.cli import main
from omniad.detector.export import export
from omniad.errors import UserError
from omniad.locks import locked
from omniad.runs.provenance import commit
from omniad.training.state import StateFolder
from omniad.training.train import train

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return changed(tiles_run(tmp_path_factory.mktemp("data")), epochs=2)


class FullDisk(io.BytesIO):
    """Takes a little, then no more, as a full disk does."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 1000:
            raise NO_SPACE
        return super().write(data)


def test_a_disk_that_fills_while_a_state_is_saved_is_one_line_and_keeps_the_last_one(tmp_path, monkeypatch):
    state = StateFolder(tmp_path / "state", {"seed": "0"})
    state.save({"model": {}})
    before = (tmp_path / "state" / "latest.pt").read_bytes()
    save = torch.save
    monkeypatch.setattr("torch.save", lambda content, file: save(content, FullDisk()))
    with pytest.raises(UserError, match=r"latest\.pt: cannot write: the disk is full"):
        state.save({"model": {"a": torch.ones(10_000)}})
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["latest.pt"]
    assert (tmp_path / "state" / "latest.pt").read_bytes() == before


def test_want_of_memory_while_a_state_is_saved_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def no_memory(*arguments) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("torch.save", no_memory)
    with pytest.raises(RuntimeError, match="allocate memory"):
        StateFolder(tmp_path, {}).save({})


def test_a_disk_that_fills_during_an_export_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")

    def full(*arguments) -> None:
        raise NO_SPACE

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"d\.pt2: cannot write: No space left on device"):
        export(tmp_path / "run", tmp_path / "d.pt2", "pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_output_that_cannot_be_written_is_one_line():
    command = [sys.executable, "-m", "omniad", "settings"]
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0] == "omniad: output: No space left on device"
    assert "Traceback" not in answer.stderr and "bug" not in answer.stderr


def test_a_reader_that_has_gone_ends_a_command_without_a_word():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "omniad", "settings"]
    answer = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (answer.returncode, answer.stderr) == (141, "")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_of_the_file_system_it_goes_on_and_says_so(tmp_path, monkeypatch, caplog, number):
    def no_locks(*arguments) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "run"):
        assert "its file system has no locks" in caplog.text
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(devices, "_held", held := [])
    assert devices.lock_first_free(["a", "b"], tmp_path / "devices") == 0
    for file in held:
        file.close()


def test_another_error_of_a_lock_is_one_line(tmp_path, monkeypatch):
    def broken(*arguments) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(UserError, match="cannot write: Input/output error"), locked(tmp_path / "run"):
        pass


def test_a_lock_file_of_any_content_is_no_obstacle(tmp_path):
    (tmp_path / ".run.lock").write_bytes(b"\xff\xfe\0")
    with locked(tmp_path / "run"):
        with (tmp_path / ".run.lock").open("r+b") as file:
            file.write(b"\xff\xfe 12")
        with pytest.raises(UserError, match="in use by another process"), locked(tmp_path / "run"):
            pass


def test_the_time_estimate_without_memory_is_told(monkeypatch):
    def no_memory(*arguments) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"
        )

    monkeypatch.setattr(omniad.training.cost, "make_step", no_memory)
    omniad.training.cost.measured_speed.cache_clear()
    with pytest.raises(UserError, match="out of memory on cpu"):
        omniad.training.cost.measured_speed(CPU)


def test_want_of_a_gpus_memory_is_no_bug(monkeypatch, capsys):
    def no_memory(*arguments) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("omniad.detector.export.export", no_memory)
    assert main(["export", "run", "--format", "pt2", "--out", "graph.pt2"]) == 1
    assert capsys.readouterr().err == "omniad: out of memory: CUDA out of memory. Tried to allocate 2.00 GiB\n"


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    """A checkout in a container, say: a training would end with an error at its very end."""
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr("omniad.runs.provenance.REPOSITORY", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


@pytest.mark.parametrize("seed", ["-1", str(2**63), "x", "1.5"])
@pytest.mark.parametrize("command", ["train --dataset d --run r --out o", "fit f --out o"])
def test_a_seed_that_is_none_is_refused_before_anything_starts(command, seed, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), f"--seed={seed}"])
    assert ended.value.code == 2
    assert "argument --seed" in capsys.readouterr().err


def test_a_negative_seed_is_refused_in_python_too(run, tmp_path):
    with pytest.raises(UserError, match="a seed must be between 0 and"):
        train(run, -1, tmp_path, CPU)


def broken_states(latest: dict) -> dict[str, object]:
    """What may be in latest.pt: whole files, with the right fingerprint or without one, that are no states."""
    return {
        "a list": [1, 2],
        "no fingerprint": {key: value for key, value in latest.items() if key != "fingerprint"},
        "a fingerprint of numbers": latest | {"fingerprint": {1: 2}},
        "nothing else": {"fingerprint": latest["fingerprint"]},
        "no model": latest | {"model": {}},
        "another model": latest | {"model": {name: torch.ones(1) for name in latest["model"]}},
        "no generator": latest | {"rng": torch.zeros(3, dtype=torch.uint8)},
        "an odd position": latest | {"position": latest["position"] | {"epoch": "many"}},
        "an unknown position": latest | {"position": {"where": 5}},
        "no optimizers": latest | {"optimizers": None},
    }


def test_a_latest_state_that_is_none_goes_back_to_the_one_before(run, tmp_path, caplog):
    class Stopped(Exception):
        pass

    folder, patch = tmp_path / "state", pytest.MonkeyPatch()
    saves = []
    save = StateFolder.save

    def save_and_stop(self, state) -> None:
        save(self, state)
        saves.append(state)
        if len(saves) == 3:
            raise Stopped

    patch.setattr(StateFolder, "save", save_and_stop)
    with patch.context(), pytest.raises(Stopped):
        train(changed(run, save_every_s=0.0), 0, tmp_path, CPU)
    patch.undo()
    latest = torch.load(folder / "latest.pt", weights_only=True)
    previous = torch.load(folder / "previous.pt", weights_only=True)
    assert previous["position"]["step"] != latest["position"]["step"]
    caplog.set_level(logging.INFO)
    from omniad.models import build_model
    from omniad.training.state import check_state

    model = build_model(run.model)
    for name, content in broken_states(latest).items():
        torch.save(content, folder / "latest.pt")
        caplog.clear()
        found = StateFolder(folder, latest["fingerprint"]).load(lambda state: check_state(state, model))
        assert found is not None and found["position"]["step"] == previous["position"]["step"], name
        assert "using the state before it" in caplog.text, name
    torch.save({"fingerprint": latest["fingerprint"], "model": "text"}, folder / "previous.pt")
    assert StateFolder(folder, latest["fingerprint"]).load(lambda state: check_state(state, model)) is None
