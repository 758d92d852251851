"""What the runs cost so far, and an estimate for the remaining ones from the recorded times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from omniad.config import RunSettings, Settings, run_settings
from omniad.job_size import images, passes, relative_cost
from omniad.reporting.missing import command
from omniad.reporting.records import energy_joules, hardware
from omniad.runs.finished import FinishedRun
from omniad.runs.targets import target_runs


@dataclass(frozen=True)
class Cost:
    """One target: its trainings that were made, and those that are left."""

    target: str
    command: str
    done: int
    left: int
    spent_s: float  # training and evaluation
    left_s: float | None  # None: nothing recorded tells


@dataclass(frozen=True)
class Spent:
    """Everything in the results folder on one kind of hardware."""

    hardware: str
    runs: int
    training_s: float
    evaluation_s: float
    energy_j: float | None


def spent(runs: Iterable[FinishedRun]) -> list[Spent]:
    """What was run, by hardware."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(hardware(run.provenance.get("hardware", {})), []).append(run)
    found = []
    for name, group in sorted(groups.items()):
        energies = [joules for run in group if (joules := energy_joules(run.provenance)) is not None]
        training, evaluation = (sum(_seconds(run, part) or 0 for run in group) for part in ("training", "evaluation"))
        found.append(Spent(name, len(group), training, evaluation, sum(energies) if energies else None))
    return found


def costs(settings: Settings, runs: list[FinishedRun]) -> list[Cost]:
    """Each target with the time it took and an estimate of what is left.

    A run that was made before with another seed takes as long again. Any other is scaled by its epochs, images and
    model (omniad/job_size.py) from the runs on its data set, or else from all.
    """
    made = {(run.dataset, run.run, run.seed): run for run in runs}
    found = []
    for target, wanted in target_runs(settings).items():
        keys = [(dataset, run, seed) for dataset, run in sorted(wanted) for seed in settings.seeds]
        done = [made[key] for key in keys if key in made]
        left = [_estimate(run_settings(settings, key[0], key[1]), runs) for key in keys if key not in made]
        known = [seconds for seconds in left if seconds is not None]
        found.append(
            Cost(
                target=target,
                command=command(settings, target),
                done=len(done),
                left=len(left),
                spent_s=sum(_total(run) or 0 for run in done),
                left_s=sum(known) if len(known) == len(left) else None,
            )
        )
    return found


def _estimate(wanted: RunSettings, runs: list[FinishedRun]) -> float | None:
    """Seconds that a run will take, the way the recorded ones went."""
    same_data = [run for run in runs if run.dataset == wanted.dataset and _total(run)]
    same_run = [run for run in same_data if run.run == wanted.run]
    alike = same_run or same_data or [run for run in runs if _total(run)]
    rates = [total / _work(run.settings) for run in alike if (total := _total(run))]
    return statistics.median(rates) * _work(wanted) if rates else None


def _work(run: RunSettings) -> float:
    """How much there is to compute, in images of the default model."""
    return passes(run) * images(run, "train") * relative_cost(run)


def _total(run: FinishedRun) -> float | None:
    training = _seconds(run, "training")
    return None if training is None else training + (_seconds(run, "evaluation") or 0)


def _seconds(run: FinishedRun, part: str) -> float | None:
    return run.provenance.get(part, {}).get("wall_s")
