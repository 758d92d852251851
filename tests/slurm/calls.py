"""Calls of Snakemake in the background, and the trainings of their Slurm jobs, held still at a known place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pandas as pd
import yaml
from cluster import job_processes, wait_until
from project_copy import TINY, copy_project, start_snakemake

# All alike, so that all must end with the same bits; a name for each case. The first state is saved after a few steps.
RUNS = ("uninterrupted", "out_of_time", "preempted", "on_a_lost_node", "orphaned")
OVERLAY = {
    "runs": {
        **{run: {"training": {"epochs": 16, "save_every_s": 0.1}} for run in RUNS},
        "hopeless": {"training": {"learning_rate": 1e30}},
    }
}
CONFIG = ("config/demo.yaml", "tiny.yaml", "faults.yaml")
# Jobs here take seconds and share two cores: look often, one thread each.
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--set-threads", "train=1", "evaluate=1", "pack=1")
FINISH_S = 600  # a call that hangs fails its test; the longest takes a few minutes


def prepare_project(folder: Path) -> Path:
    """A copy of the project, with the overlays of these tests."""
    copy_project(folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "faults.yaml").write_text(yaml.safe_dump(OVERLAY))
    return folder


def run_folder(project: Path, run: str) -> Path:
    return project / "results/demo/runs/mvtec" / run / "seed0"


def log_file(project: Path, run: str) -> Path:
    return project / f"results/demo/logs/train/mvtec-{run}-seed0.log"


@dataclass(frozen=True)
class Trainer:
    """The process that trains a run in a Slurm job."""

    process: int
    job: str
    node: str
    device: str


class Call:
    """`snakemake --profile slurm` in the background; killed if it still runs when the block ends."""

    def __init__(self, project: Path, *words: str):
        self.project, self.output = project, project / f"call-{time.time_ns()}.txt"
        with self.output.open("w") as file:
            self.snakemake = start_snakemake(project, "--profile", "slurm", *words, output=file)

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.snakemake.poll() is None:
            self.snakemake.kill()
        self.snakemake.wait()
        if error is not None:
            print(self.output.read_text())  # pytest shows it with the failure

    def finish(self, expect: int = 0) -> str:
        """Wait for its end; its whole output."""
        try:
            status = self.snakemake.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"snakemake has not ended within {FINISH_S} s; what it said is below") from None
        assert status == expect
        return self.output.read_text()

    def hold(self, run: str) -> Trainer:
        """Wait until the run's state was saved, then halt its process: it goes no further until the fault comes."""
        wait_until(lambda: (run_folder(self.project, run) / "state/latest.pt").exists(), 120)
        (trainer,) = trainers(self.project, run)
        os.kill(trainer.process, signal.SIGSTOP)
        return trainer


def train(project: Path, *runs: str, options: tuple[str, ...] = (), config: tuple[str, ...] = CONFIG) -> Call:
    """A call for the trainings of some runs."""
    models = [str(run_folder(project, run).relative_to(project) / "model.safetensors") for run in runs]
    return Call(project, *models, *QUICK, *options, "--configfile", *config)


def trainers(project: Path, run: str) -> list[Trainer]:
    """The processes of Slurm jobs that train this run."""
    found = []
    for process, environment in job_processes().items():
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
            here = Path(f"/proc/{process}/cwd").resolve() == project.resolve()
        except OSError:
            continue
        if here and words[1:4] == ["-m", "omniad", "train"] and run in words:
            keys = ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
            found.append(Trainer(process, *(environment.get(key, "") for key in keys)))
    return found


def job(number: str) -> dict[str, str]:
    """What Slurm knows of a job: JobState, Restarts, BatchHost, ..."""
    answer = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True)
    return dict(re.findall(r"(\w+)=(\S*)", answer.stdout))


def start_at_once(number: str) -> None:
    """Slurm lets a requeued job wait for two minutes; not here."""
    wait_until(lambda: job(number)["JobState"] == "PENDING", 60)
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)


def train_by_hand(project: Path, run: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "omniad", "train", "--config", "results/demo/config.yaml", "--dataset", "mvtec", "--run", run]
    command = [sys.executable, *words, "--seed", "0", "--out", str(run_folder(project, run))]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def assert_went_on_to_the_same_result(log: Path, ours: Path, reference: Path) -> None:
    """Bit for bit that of the uninterrupted run's folder, and reached by going on, not by starting over."""
    assert "resuming after epoch" in log.read_text()
    assert (ours / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    history, expected = (pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (ours, reference))
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
