"""The best epoch on the test set, where a run recorded its test metrics by epoch (epochs.csv): an oracle, not a result.

Nobody can pick that epoch without the test set's answers. It stands in the report because published numbers may be
maxima over epochs. One epoch serves all metrics, the one with the highest mAD: maxima taken metric by metric would mix
epochs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omniad.errors import UserError
from omniad.reporting.runs import FinishedRun
from omniad.reporting.tables import SHOWN

CHOICE = "mAD"


@dataclass(frozen=True)
class Oracle:
    """One run's best epoch beside its last recorded one, percent."""

    run: FinishedRun
    best_epoch: int
    last_epoch: int
    best: Mapping[str, float]  # by metric
    last: Mapping[str, float]


def oracles(runs: list[FinishedRun]) -> list[Oracle]:
    """Every run that recorded its test metrics by epoch.

    Raises:
        UserError: an epochs.csv is not one that training wrote.
    """
    return [oracle for run in runs if (oracle := _oracle(run)) is not None]


def _oracle(run: FinishedRun) -> Oracle | None:
    epochs = read_epochs(run.folder / "epochs.csv")
    known = {epoch: values[CHOICE] for epoch, values in epochs.items() if not math.isnan(values.get(CHOICE, math.nan))}
    if not known:
        return None
    best, last = max(known, key=lambda epoch: (known[epoch], -epoch)), max(epochs)
    return Oracle(run, best, last, epochs[best], epochs[last])


def read_epochs(file: Path) -> dict[int, dict[str, float]]:
    """Epoch -> metric -> percent, in the definition shown beside print; empty when there is no such file."""
    found: dict[int, dict[str, float]] = {}
    if not file.exists():
        return found
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            for line in csv.DictReader(handle):
                if line["definition"] == SHOWN:
                    found.setdefault(int(line["epoch"]), {})[line["metric"]] = 100 * float(line["value"] or "nan")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a record of test metrics by epoch ({error}); remove it") from None
    return found
