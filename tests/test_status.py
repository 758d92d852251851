"""`omniad status`: every state of a run, made by hand."""

import datetime
import fcntl
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from omniad.config import load_settings
from omniad.errors import UserError
from omniad.slurm import cancel_leftovers
from omniad.status import RunStatus, run_statuses

RUN = "results/runs/mvtec/default/seed0"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder where nothing ran yet, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def write(file: str, text: str = "") -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_progress(epoch: int, left_s: float, age_s: float = 0) -> None:
    updated = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
    facts = {"epoch": epoch, "epochs": 500, "left_s": left_s, "host": socket.gethostname(), "pid": os.getpid()}
    write(f"{RUN}/state/progress.json", json.dumps(facts | {"updated": updated.isoformat()}))


def fake_slurm(folder: Path, *jobs: str) -> None:
    """An squeue that knows these jobs; scancel empties it and writes down what it was asked."""
    (folder / "queue").write_text("".join(f"{job}\n" for job in jobs))
    for name, script in (("squeue", "cat queue"), ("scancel", "echo $@ > cancelled; : > queue")):
        file = folder / "bin" / name
        file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\ncd {folder}\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)


def status_of_default() -> RunStatus:
    statuses = {str(run.folder): run for run in run_statuses(load_settings(), "table1")}
    assert len(statuses) == 9  # three data sets, three seeds
    return statuses[RUN]


def test_a_run_that_nobody_began_is_not_started():
    assert status_of_default().state == "not started"


def test_a_locked_folder_is_running_and_tells_the_time_left_from_now():
    write_progress(epoch=120, left_s=3700, age_s=100)
    lock = write(f"{RUN}/.lock", "host 1")
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        running = status_of_default()
    assert running.state == "running"
    assert running.detail == "epoch 120 of 500, about 60 min left"


def test_fresh_progress_of_a_dead_process_is_not_running():
    write_progress(epoch=120, left_s=3700)
    write(f"{RUN}/.lock", f"{socket.gethostname()} {os.getpid()}")  # left behind; its pid is another process now
    write("results/logs/train/mvtec-default-seed0.log", "epoch 120 of 500\n")
    stopped = status_of_default()
    assert (stopped.state, stopped.detail) == (
        "stopped",
        "epoch 120 of 500, log: results/logs/train/mvtec-default-seed0.log",
    )


def test_a_failed_run_tells_its_error_and_its_log():
    write("results/logs/train/mvtec-default-seed0.log", "epoch 1\nomniad: the loss is not finite\n\n")
    failed = status_of_default()
    assert failed.state == "failed"
    assert failed.detail == "the loss is not finite; log: results/logs/train/mvtec-default-seed0.log"


def test_trained_then_evaluated():
    write(f"{RUN}/model.safetensors")
    write("results/logs/train/mvtec-default-seed0.log", "omniad: an old mistake\n")
    assert status_of_default().state == "trained"
    log = write("results/logs/evaluate/mvtec-default-seed0.log", "omniad: no pack\n")
    assert status_of_default().state == "failed"
    assert str(log) in status_of_default().detail
    write(f"{RUN}/metrics.csv")
    assert status_of_default() == RunStatus(Path(RUN), "done")


def test_slurm_jobs_of_this_folder_are_queued_or_running(folder):
    fake_slurm(
        folder,
        f"7|PENDING|{folder}|rule_train_wildcards_mvtec_default_0",
        "8|PENDING|/elsewhere|rule_train_wildcards_mvtec_default_1",
        f"9|RUNNING|{folder}|rule_evaluate_wildcards_mvtec_default_2",
    )
    write("results/runs/mvtec/default/seed2/model.safetensors")
    states = {run.folder.name: (run.state, run.detail) for run in run_statuses(load_settings(), "table2")
              if run.folder.parent.name == "default"}  # fmt: skip
    assert states == {
        "seed0": ("queued", "job 7"),
        "seed1": ("not started", ""),
        "seed2": ("running", "evaluation, job 9"),
    }


def test_a_running_slurm_job_says_how_far_it_is(folder):
    write_progress(epoch=3, left_s=60)
    fake_slurm(folder, f"7|RUNNING|{folder}|rule_train_wildcards_mvtec_default_0")
    assert status_of_default().state == "running"
    assert status_of_default().detail.startswith("epoch 3 of 500, about ")
    assert status_of_default().detail.endswith("left, job 7")


def test_only_jobs_that_would_do_our_steps_are_cancelled(folder):
    fake_slurm(
        folder,
        f"7|PENDING|{folder}|rule_train_wildcards_mvtec_default_0",
        f"8|RUNNING|{folder}|rule_train_wildcards_mvtec_tokens_16_0",
        "9|RUNNING|/elsewhere|rule_train_wildcards_mvtec_default_0",
    )
    cancelled = cancel_leftovers(folder, ["rule_train_wildcards_mvtec_default_0"])
    assert [job.id for job in cancelled] == ["7"]
    assert (folder / "cancelled").read_text() == "7\n"


def test_jobs_that_do_not_end_are_named(folder):
    fake_slurm(folder, f"7|RUNNING|{folder}|rule_train_wildcards_mvtec_default_0")
    (folder / "bin/scancel").write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match=r"jobs 7, .* do not end: run `scancel 7`"):
        cancel_leftovers(folder, ["rule_train_wildcards_mvtec_default_0"], poll_s=0, ending_s=0)


def test_an_unknown_target_is_refused():
    with pytest.raises(UserError, match="table1"):
        list(run_statuses(load_settings(), "table9"))
