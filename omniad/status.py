"""The progress of each run of a target, from its folder, lock and log and from the Slurm queue."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omniad.config import Settings
from omniad.errors import UserError
from omniad.runs.files import LOCK, METRICS, MODEL, PROGRESS, RunName
from omniad.runs.progress import ProgressNote, read_progress
from omniad.runs.provenance import read_provenance
from omniad.runs.targets import target_names
from omniad.runs.weights import measured_others
from omniad.slurm import SlurmJob, queued_jobs, step_name
from omniad.wording import duration


@dataclass(frozen=True)
class RunStatus:
    """One run: its folder, its state and details.

    state: not started; queued, running (training, or evaluation under Slurm); stopped (interrupted; it resumes when
    called again); trained (not evaluated yet); done; failed (its log ends with an error).
    """

    folder: Path
    state: str
    detail: str = ""


def run_statuses(settings: Settings, target: str) -> Iterator[RunStatus]:
    """Every run and seed of a target.

    Raises:
        UserError: there is no such target.
    """
    names = target_names(settings, target)
    jobs = {job.step: job for job in queued_jobs(Path.cwd()) if job.state != "COMPLETING"}
    for name in names:
        yield _status(name, name.folder(settings.results), Path(settings.results, "logs"), jobs)


def _status(name: RunName, folder: Path, logs: Path, jobs: Mapping[str, SlurmJob]) -> RunStatus:
    progress = read_progress(folder)
    training = jobs.get(step_name("train", name.dataset, name.run, str(name.seed)))
    if _locked(folder / LOCK) or (training and not training.waits):
        return RunStatus(folder, "running", _in_a_row(_position(progress), _left(progress), _job(training)))
    if training:
        return RunStatus(folder, "queued", _in_a_row(_position(progress), _job(training)))
    if (folder / MODEL).exists():
        return _evaluation_status(name, folder, logs, jobs)
    log = _log(logs, "train", name)
    error = _error(log)
    if error:
        return RunStatus(folder, "failed", f"{error}; log: {log}")
    if progress is not None or (folder / PROGRESS).exists() or log.exists():
        return RunStatus(folder, "stopped", _in_a_row(_position(progress), f"log: {log}"))
    return RunStatus(folder, "not started")


def _evaluation_status(name: RunName, folder: Path, logs: Path, jobs: Mapping[str, SlurmJob]) -> RunStatus:
    evaluation = jobs.get(step_name("evaluate", name.dataset, name.run, str(name.seed)))
    if evaluation:
        state = "queued" if evaluation.waits else "running"
        return RunStatus(folder, state, _in_a_row("evaluation", _job(evaluation)))
    if (folder / METRICS).exists():
        problem = _metrics_problem(folder)
        return RunStatus(folder, "trained", problem) if problem else RunStatus(folder, "done")
    log = _log(logs, "evaluate", name)
    error = _error(log)
    if error:
        return RunStatus(folder, "failed", f"evaluation: {error}; log: {log}")
    return RunStatus(folder, "trained", "not evaluated")


def _metrics_problem(folder: Path) -> str:
    try:
        return measured_others(folder, read_provenance(folder))
    except UserError as error:
        return str(error)


def _log(logs: Path, step: str, name: RunName) -> Path:
    return logs / step / f"{name.dataset}-{name.run}-seed{name.seed}.log"


def _locked(file: Path) -> bool:
    """Whether a live process is training in the folder; a dead one's lock file is not locked."""
    try:
        with file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _position(progress: ProgressNote | None) -> str:
    if progress is None:
        return ""
    if progress.prepared is not None and not progress.step:
        return f"{progress.prepared:.0%} prepared"
    return f"epoch {progress.epoch} of {progress.epochs}"


def _left(progress: ProgressNote | None) -> str:
    """Time left, counted from when the progress was written."""
    if progress is None or progress.left_s is None:
        return ""
    return f"about {duration(max(0.0, progress.left_s - progress.age_s))} left"


def _job(job: SlurmJob | None) -> str:
    return f"job {job.id}" if job else ""


def _error(log: Path) -> str:
    """The error that a log ends with; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("omniad: ") if last.startswith("omniad: ") else ""


def _in_a_row(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
