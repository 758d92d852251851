"""Where a claim's check takes its numbers from: the paper's printed tables, or the runs here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omniad.reporting.cells import NOT_RUN
from omniad.reporting.claims.comparisons import Estimate
from omniad.reporting.complexity import COUNTS
from omniad.reporting.tables import PRINTED_VARIANT, Row, Table
from omniad.reporting.verdicts import NOT_JUDGED

NOT_PRINTED, NOT_MEASURABLE = "not in the tables", "nothing to measure"


class Absent(Exception):
    """A number that a check needs isn't there; the text says why."""


@dataclass
class Source:
    """Where a check takes its numbers from: print, or the runs here. Remembers what qualifies the answer."""

    table: Table | None
    dataset: str
    measured: bool
    unlike: set[str] = field(default_factory=set)
    from_print: set[str] = field(default_factory=set)  # rows that were not run here
    runs: int = 0  # measured numbers that were used
    one_seed: bool = False  # a run among them has no spread

    def rows(self) -> dict[str, Row]:
        rows = self.table.rows if self.table else ()
        return {row.label: row for row in rows if row.dataset == self.dataset}

    def all_labels(self) -> list[str]:
        """Of the rows that a claim about "all" means: not those that were added here to a printed table."""
        printed = {row.label for row in self.table.rows if row.printed} if self.table else set()
        return [label for label in self.rows() if label in printed or not printed]

    def get(self, label: str, column: str) -> Estimate | None:
        """A row's number; None where the paper prints a dash and nothing was run."""
        row = self.rows()[label]
        printed = row.printed.get(column)
        if not self.measured:
            return Estimate(printed.value) if printed else None
        if column in COUNTS:
            if column not in row.counted.get(PRINTED_VARIANT, {}):
                raise Absent(NOT_RUN)
            self.runs += 1
            return Estimate(row.counted[PRINTED_VARIANT][column])
        ours = row.ours[0] if row.ours else None
        measured = ours.measured(column) if ours else None
        if ours and measured:
            if math.isnan(measured.mean):
                raise Absent(f"{NOT_JUDGED}: {column} is undefined")
            self.runs += 1
            self.unlike |= {ours.unlike} - {""}
            self.one_seed |= measured.std is None
            return Estimate(measured.mean, measured.n, measured.std)
        if ours and row.own:
            raise Absent(NOT_RUN)
        self.from_print.add(label)
        return Estimate(printed.value, rounding=printed.rounding) if printed else None
