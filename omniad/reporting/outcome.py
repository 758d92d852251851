"""All verdicts together: how many numbers were reproduced, which were not, and what is undecided."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from omniad.reporting.tables import PRINTED_VARIANT, SHOWN, Row, Table
from omniad.reporting.verdicts import FALSE_RATE, FEW_SEEDS, NOT_JUDGED, REPRODUCED, Verdict
from omniad.runs.artifacts import read_epochs
from omniad.runs.finished import FinishedRun


@dataclass(frozen=True)
class Judged:
    """One printed number with its verdict; a run shown in several tables counts once for each printed number."""

    table: str
    dataset: str
    run: str
    column: str
    printed: str
    ours: float  # the mean in percent, or the count
    verdict: Verdict


@dataclass(frozen=True)
class Outcome:
    """The verdicts on the accuracies, and those on parameters and FLOPs."""

    accuracies: list[Judged]
    counts: list[Judged]

    @property
    def kinds(self) -> Counter:
        """How many accuracies have which verdict."""
        return Counter(one.verdict.kind for one in self.accuracies)

    @property
    def judged(self) -> int:
        return len(self.accuracies) - self.kinds[NOT_JUDGED]

    @property
    def false_expected(self) -> float:
        """How many verdicts at most say "higher" or "lower" by chance, if no number is truly shifted."""
        return FALSE_RATE * self.judged

    def reasons(self, kind: str) -> Counter:
        """Why accuracies are inconclusive, or not judged, and how many."""
        texts = {FEW_SEEDS: f"{FEW_SEEDS}; at the measured mean and deviation {self._enough()} would be enough"}
        reasons = [one.verdict.reason for one in self.accuracies if one.verdict.kind == kind]
        return Counter(texts.get(reason, reason) for reason in reasons)

    def _enough(self) -> str:
        """How many seeds decide what few did not: "5", "4 to 12"."""
        seeds = [one.verdict.seeds for one in self.accuracies if one.verdict.seeds] or [0]
        return f"{min(seeds)}" if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"

    @property
    def different(self) -> list[Judged]:
        """Every number that is higher or lower than printed."""
        return [one for one in self.accuracies + self.counts if one.verdict.different]

    @property
    def equal_counts(self) -> int:
        return sum(one.verdict.kind == REPRODUCED for one in self.counts)


def outcome(tables: Iterable[Table]) -> Outcome:
    """Every verdict of these tables once."""
    accuracies: dict[tuple, Judged] = {}
    counts: list[Judged] = []
    for table in tables:
        for row in table.rows:
            for one in _accuracies(table, row):
                accuracies.setdefault((one.dataset, one.run, one.column, one.printed), one)
            counts += _counts(table, row)
    return Outcome(list(accuracies.values()), counts)


def _accuracies(table: Table, row: Row) -> Iterable[Judged]:
    for ours in row.ours:
        for column, verdict in ours.verdicts.items():
            measured = ours.measured(column)
            if measured is not None:
                text = row.printed[column].text
                yield Judged(table.label, row.dataset_title, ours.run, column, text, measured.mean, verdict)


def _counts(table: Table, row: Row) -> list[Judged]:
    counted = row.counted.get(PRINTED_VARIANT, {})
    return [
        Judged(table.label, PRINTED_VARIANT, row.label, column, row.printed[column].text, counted[column], verdict)
        for column, verdict in row.verdicts.items()
    ]


CHOICE = "mAD"


@dataclass(frozen=True)
class Oracle:
    """One run's best epoch beside its last recorded one, percent."""

    run: FinishedRun
    best_epoch: int
    last_epoch: int
    best: dict[str, float]  # by metric
    last: dict[str, float]


def oracles(runs: list[FinishedRun]) -> list[Oracle]:
    """Every run that recorded its test metrics by epoch.

    Raises:
        UserError: an epochs.csv is not one that training wrote.
    """
    found = [oracle for run in runs if (oracle := _oracle(run)) is not None]
    unknown = {metric: math.nan for one in found for metric in (*one.last, *one.best)}  # one table shows them all
    return [replace(one, best=unknown | one.best, last=unknown | one.last) for one in found]


def _oracle(run: FinishedRun) -> Oracle | None:
    epochs = read_epochs(run.folder, SHOWN) or {}
    known = {epoch: values[CHOICE] for epoch, values in epochs.items() if not math.isnan(values.get(CHOICE, math.nan))}
    if not known:
        return None
    best, last = max(known, key=lambda epoch: (known[epoch], -epoch)), max(epochs)
    return Oracle(run, best, last, epochs[best], epochs[last])
