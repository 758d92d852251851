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
from omniad.files import atomic_write, read_csv, reading
from omniad.metrics.definitions import DEFINITIONS
from omniad.metrics.definitions import METRICS as METRIC_NAMES
from omniad.names import MEAN
from omniad.runs.artifacts import fraction
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


def write_metrics(folder: Path, lines: Iterable[tuple], name: str = METRICS) -> None:
    """Write a run folder's metrics.csv, or one like it: class, metric, definition, value, reason, spread."""
    with atomic_write(folder / name) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(METRICS_COLUMNS)
        writer.writerows(_fields(line) for line in lines)


def collect(runs: Iterable[FinishedRun]) -> list[Measurement]:
    """The metrics of these runs, one entry a run, class, metric and definition.

    Raises:
        UserError: a run's metrics.csv lacks a column, holds a value that is neither empty nor in [0, 1], an unknown
            metric, or one twice.
    """
    return [line for run in runs for line in _read_metrics(run)]


def _read_metrics(run: FinishedRun) -> list[Measurement]:
    path = run.folder / METRICS
    with reading(path, "not written by `omniad evaluate`; evaluate the run again"):
        lines = read_csv(path, METRICS_COLUMNS[:-1])  # an older version wrote no spread
        if not lines:
            raise ValueError("it contains no metrics")
        found: dict[tuple[str, str, str], Measurement] = {}
        for line in lines:
            key = line["class"], line["metric"], line["definition"]
            if key[1] not in METRIC_NAMES or key[2] not in DEFINITIONS:
                raise ValueError(f"unknown metric '{key[1][:40]}' or definition '{key[2][:40]}'")
            if key in found:
                raise ValueError(f"{key[1]} of class '{key[0][:40]}' appears twice")
            try:
                value, spread = fraction(line["value"]), fraction(line.get("spread", ""))
            except ValueError as error:
                raise ValueError(f"{key[1]} of class '{key[0][:40]}': {error}") from None
            found[key] = Measurement(run.dataset, run.run, run.seed, *key, value, line["reason"], spread)
    return list(found.values())


def check_means(measurements: Iterable[Measurement]) -> None:
    """Compare each mean over classes with the classes'.

    Raises:
        UserError: one is not the plain mean of its classes, NaN as soon as one of them is.
    """
    groups: dict[tuple, dict[str, float]] = {}
    for line in measurements:
        key = (line.dataset, line.run, line.seed, line.metric, line.definition)
        groups.setdefault(key, {})[line.class_] = line.value
    for key, values in groups.items():
        mean = values.pop(MEAN, None)
        plain = sum(values.values()) / len(values) if values else None
        if mean is None or plain is None:
            raise UserError(f"{METRICS}: {key[3]} ({key[4]}) has no mean, or no class")
        if math.isnan(mean) != math.isnan(plain) or abs(mean - plain) > 1e-6:
            raise UserError(
                f"{METRICS}: the mean of {key[3]} ({key[4]}) is {mean:.6f}, but the mean of its classes is {plain:.6f}"
            )


def _fields(line: Iterable[object]) -> list[object]:
    """A line's fields; an undefined value is an empty one."""
    return ["" if isinstance(field, float) and math.isnan(field) else field for field in line]
