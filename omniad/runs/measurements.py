"""`measurements.csv`: every metric of every finished run in one tidy table, from which all tables are made.

Columns: dataset, run, seed, class ("mean": the plain mean over classes), metric, definition (exact or published),
value in [0, 1] (empty: undefined), reason (why it is undefined), spread (standard deviation over draws of the
`released` reading's random projection; empty where nothing is drawn).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omniad.errors import UserError
from omniad.files import atomic_write
from omniad.runs.files import METRICS, METRICS_COLUMNS
from omniad.runs.finished import FinishedRun

COLUMNS = ("dataset", "run", "seed", "class", "metric", "definition", "value", "reason", "spread")


class Measurement(NamedTuple):
    """One line of measurements.csv."""

    dataset: str
    run: str
    seed: int
    class_: str
    metric: str
    definition: str
    value: float  # NaN: undefined
    reason: str
    spread: float = math.nan  # NaN: nothing is drawn


def write_measurements(measurements: Iterable[Measurement], out: str | Path) -> None:
    """Write measurements.csv; an undefined value is an empty field."""
    with atomic_write(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in measurements:
            writer.writerow(_fields(line))


def write_metrics(folder: Path, lines: Iterable[tuple]) -> None:
    """Write a run folder's metrics.csv: class, metric, definition, value, reason, spread."""
    with atomic_write(folder / METRICS) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(METRICS_COLUMNS)
        writer.writerows(_fields(line) for line in lines)


def collect(runs: Iterable[FinishedRun]) -> list[Measurement]:
    """The metrics of these runs, one entry a run, class, metric and definition.

    Raises:
        UserError: a run's metrics.csv lacks a column, or holds a value that is neither empty nor in [0, 1].
    """
    return [line for run in runs for line in _read_metrics(run)]


def _read_metrics(run: FinishedRun) -> list[Measurement]:
    path = run.folder / METRICS
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        raise UserError(f"{path}: no metrics in it; evaluate the run again")
    try:
        found = [
            Measurement(
                *(run.dataset, run.run, run.seed),
                *(line["class"], line["metric"], line["definition"]),
                float(line["value"] or "nan"),
                line["reason"],
                float(line.get("spread") or "nan"),
            )
            for line in lines
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not written by `omniad evaluate` ({error}); evaluate the run again") from None
    for line in found:
        if not math.isnan(line.value) and not 0 <= line.value <= 1:
            raise UserError(
                f"{path}: {line.metric} of class '{line.class_}' is {line.value}, not in [0, 1]; evaluate the run again"
            )
    return found


def _fields(line: Iterable[object]) -> list[object]:
    """A line's fields; an undefined value is an empty one."""
    return ["" if isinstance(field, float) and math.isnan(field) else field for field in line]
