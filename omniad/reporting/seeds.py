"""Over the seeds: a run's mean and standard deviation, and the deviation pooled over all runs of a data set and metric.

Everything here is in percent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omniad.runs.measurements import Measurement

Key = tuple[str, str]  # metric, definition
RunKey = tuple[str, str]  # data set, run


@dataclass(frozen=True)
class SeedMean:
    """A metric's mean over seeds."""

    mean: float  # NaN: undefined, for the given reason
    std: float | None  # of the seeds (ddof 1); None with one seed
    n: int = 1  # seeds
    reason: str = ""
    draws: float = math.nan  # largest standard deviation over draws of a random inference; NaN where nothing is drawn


@dataclass(frozen=True)
class Spread:
    """s_p: the seeds' standard deviation, pooled over runs, and its degrees of freedom, the sum of n - 1."""

    std: float
    df: int


Summary = Mapping[RunKey, Mapping[Key, SeedMean]]
Spreads = Mapping[tuple[str, str, str], Spread]  # data set, metric, definition


def summarise(measurements: Iterable[Measurement], class_: str = "mean") -> Summary:
    """Mean and standard deviation over the seeds of each run: of its mean over classes, or of one class."""
    seeds: dict[RunKey, dict[Key, list[Measurement]]] = {}
    for line in measurements:
        if line.class_ == class_:
            of_run = seeds.setdefault((line.dataset, line.run), {})
            of_run.setdefault((line.metric, line.definition), []).append(line)
    return {run: {key: _over_seeds(lines) for key, lines in metrics.items()} for run, metrics in seeds.items()}


def pooled_spreads(summary: Summary) -> Spreads:
    """s_p^2 = sum of (n - 1) s^2 / sum of (n - 1), over the runs of a data set that have several seeds."""
    groups: dict[tuple[str, str, str], list[SeedMean]] = {}
    for (dataset, _), metrics in summary.items():
        for (metric, definition), measured in metrics.items():
            if measured.std is not None and not math.isnan(measured.std):
                groups.setdefault((dataset, metric, definition), []).append(measured)
    spreads = {}
    for key, group in groups.items():
        df = sum(one.n - 1 for one in group)
        squares = sum((one.n - 1) * one.std**2 for one in group if one.std is not None)
        spreads[key] = Spread(math.sqrt(squares / df), df)
    return spreads


def _over_seeds(lines: list[Measurement]) -> SeedMean:
    percents = [100 * line.value for line in lines]
    std = statistics.stdev(percents) if len(percents) > 1 and not any(map(math.isnan, percents)) else None
    drawn = [100 * line.spread for line in lines if not math.isnan(line.spread)]
    return SeedMean(
        mean=statistics.fmean(percents),
        std=std,
        n=len(percents),
        reason=next(filter(None, (line.reason for line in lines)), ""),
        draws=max(drawn, default=math.nan),
    )
