"""Over the seeds of a run: mean and standard deviation, in percent."""

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


Summary = Mapping[RunKey, Mapping[Key, SeedMean]]


def summarise(measurements: Iterable[Measurement], class_: str = "mean") -> Summary:
    """Mean and standard deviation over the seeds of each run: of its mean over classes, or of one class."""
    seeds: dict[RunKey, dict[Key, list[Measurement]]] = {}
    for line in measurements:
        if line.class_ == class_:
            of_run = seeds.setdefault((line.dataset, line.run), {})
            of_run.setdefault((line.metric, line.definition), []).append(line)
    return {run: {key: _over_seeds(lines) for key, lines in metrics.items()} for run, metrics in seeds.items()}


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
