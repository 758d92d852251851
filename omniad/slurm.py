"""The workflow's Slurm jobs of this user: list them, and cancel those that a killed Snakemake left behind."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omniad.errors import UserError

ENDING_S = 120  # Slurm's time between asking a job to end and killing it is 30 s by default


@dataclass(frozen=True)
class SlurmJob:
    """One job in the queue; `step` is the workflow's name for it (`step_name`)."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    step: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")


def step_name(rule: str, *wildcards: str) -> str:
    """What Snakemake's Slurm executor writes into a job's comment."""
    return f"rule_{rule}_wildcards_{'_'.join(wildcards)}"


def queued_jobs(folder: Path) -> list[SlurmJob]:
    """Waiting and running jobs of the workflow in this folder; none without Slurm, or if it does not answer."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%Z|%k"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return []
    rows = [line.split("|", 3) for line in answer.stdout.splitlines() if line.count("|") >= 3]
    here = folder.resolve()
    return [
        SlurmJob(number, state, step)
        for number, state, where, step in rows
        if step.startswith("rule_") and Path(where).resolve() == here
    ]


def cancel_leftovers(
    folder: Path, steps: Collection[str], poll_s: float = 1.0, ending_s: float = ENDING_S
) -> list[SlurmJob]:
    """Cancel the queued jobs that would do the same steps as ours, and wait until they are gone.

    Only the holder of the folder's Snakemake lock may do that: the jobs then belong to a Snakemake that was killed. A
    training saves its state before it ends, and the new job resumes from there.

    Raises:
        UserError: they are still queued after `ending_s`.
    """
    leftovers = [job for job in queued_jobs(folder) if job.step in steps]
    numbers = [job.id for job in leftovers]
    if leftovers:
        with suppress(subprocess.TimeoutExpired):  # a busy Slurm may have taken the request
            subprocess.run(["scancel", *numbers], check=False, timeout=60)
    end = time.monotonic() + ending_s
    while {job.id for job in queued_jobs(folder)} & set(numbers):
        if time.monotonic() > end:
            jobs = " ".join(numbers)
            raise UserError(
                f"Slurm jobs {jobs}, left by an earlier call, do not end: run `scancel {jobs}`, then start again"
            )
        time.sleep(poll_s)
    return leftovers
