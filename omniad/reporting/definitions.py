"""Both definitions of the metrics side by side: that of the printed numbers, and the exact one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omniad.reporting.layout import NOTHING, measured_text, signed
from omniad.reporting.runs import FinishedRun
from omniad.reporting.seeds import Measured, Summary
from omniad.reporting.tables import DEFINITIONS


@dataclass(frozen=True)
class BothDefinitions:
    """One table: for each run a line a definition, and how far they are apart."""

    head: list[str]
    lines: list[list[str]]


def both_definitions(summary: Summary, runs: list[FinishedRun]) -> BothDefinitions:
    """The means over classes and seeds; of each run one of its seeds is named."""
    names = list(dict.fromkeys(metric for run in runs for metric, _ in summary.get((run.dataset, run.run), {})))
    lines = []
    for run in runs:
        values = summary.get((run.dataset, run.run), {})
        columns = {definition: [values.get((name, definition)) for name in names] for definition in DEFINITIONS}
        for definition, column in columns.items():
            lines.append([run.title, run.run, definition, *map(measured_text, column)])
        lines.append([run.title, run.run, "difference", *map(_apart, *columns.values())])
    return BothDefinitions(["Data set", "Run", "Definition", *names], lines)


def _apart(shown: Measured | None, exact: Measured | None) -> str:
    if shown is None or exact is None or math.isnan(shown.mean - exact.mean):
        return NOTHING
    return signed(shown.mean - exact.mean)
