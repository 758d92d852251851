"""Whether a printed number was reproduced: an equivalence test, with a margin that config/ fixes before any run.

The print is one draw, rounded to its last digit; ours is the mean of n seeds with standard deviation s. They differ
by the true shift, and by chance with standard deviation s sqrt(1 + 1/n). So the 95 % interval of the true shift is

    mean - print +- (half a unit of print's last digit + t(.975, n - 1) s sqrt(1 + 1/n)).

A number is *reproduced* when this interval lies within +-margin; else *higher* or *lower* when it lies entirely above
or below 0; else *inconclusive*. s comes only from the run's own seeds, so one seed decides nothing. Parameters and
FLOPs have no spread: they are reproduced when they are equal at the printed precision. Error rates, and why no spread
is pooled over runs: docs/verdicts.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from omniad.config import Settings, run_settings
from omniad.data.counts import subset_text
from omniad.reporting.paper import Printed
from omniad.reporting.seeds import SeedMean
from omniad.runs.finished import FinishedRun, differences

FALSE_RATE = 0.05  # how often the true shift lies outside its interval
MOST_SEEDS = 100  # nobody runs more
REPRODUCED, HIGHER, LOWER = "reproduced", "higher", "lower"
INCONCLUSIVE, NOT_JUDGED = "inconclusive", "not judged"
ONE_SEED = "one seed has no spread"
FEW_SEEDS = "too few seeds"
ONE_PRINT = f"not even {MOST_SEEDS} seeds would decide it, because the printed number is a single draw"


@dataclass(frozen=True)
class Verdict:
    """The rule's answer for one number."""

    kind: str
    half_width: float = math.nan  # of the interval; NaN: there is none, or a count
    reason: str = ""  # why it is inconclusive, or not judged
    seeds: int = 0  # that would decide what is inconclusive, at the measured mean and deviation; 0: unknown

    @property
    def judged(self) -> bool:
        return self.kind != NOT_JUDGED

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.half_width)

    @property
    def different(self) -> bool:
        return self.kind in (HIGHER, LOWER)


def judge(printed: Printed, measured: SeedMean, margin: float, unlike: str = "") -> Verdict:
    """The verdict on an accuracy in percent.

    Args:
        margin: a true shift below it counts as reproduced, in points.
        unlike: why the run doesn't compare with the paper (`not_comparable`); empty when it does.
    """
    if unlike:
        return Verdict(NOT_JUDGED, reason=unlike)
    if math.isnan(measured.mean):
        return Verdict(NOT_JUDGED, reason="undefined")
    if measured.std is None:
        return Verdict(INCONCLUSIVE, reason=ONE_SEED)
    difference = measured.mean - printed.value
    width = float(half_width(measured.std, measured.n, printed.rounding))
    kind = str(decide(difference, width, margin))
    if kind != INCONCLUSIVE:
        return Verdict(kind, width)
    more = np.arange(measured.n + 1, MOST_SEEDS + 1)
    decided = decide(difference, half_width(measured.std, more, printed.rounding), margin) != INCONCLUSIVE
    enough = int(more[decided.argmax()]) if decided.any() else 0
    return Verdict(kind, width, FEW_SEEDS if enough else ONE_PRINT, enough)


def half_width(std: ArrayLike, seeds: ArrayLike, rounding: float) -> np.ndarray:
    """Of the 95 % interval of the true shift, for one number or an array of them."""
    n = np.asarray(seeds)
    return rounding + student(n - 1) * np.asarray(std) * np.sqrt(1 + 1 / n)


def decide(difference: ArrayLike, width: ArrayLike, margin: float) -> np.ndarray:
    """The kind of verdict on difference +- width, for one number or an array of them."""
    middle, width = np.asarray(difference), np.asarray(width)
    cases = [np.abs(middle) + width < margin, middle > width, middle < -width]
    return np.select(cases, [REPRODUCED, HIGHER, LOWER], INCONCLUSIVE)


def student(df: ArrayLike, false_rate: float = FALSE_RATE) -> np.ndarray:
    """t(1 - false_rate / 2, df): how many standard errors a mean is off, but for this fraction of cases."""
    return stdtrit(df, 1 - false_rate / 2)


def judge_count(printed: Printed, counted: float) -> Verdict:
    """The verdict on parameters or FLOPs: equal at the printed precision, or not."""
    if f"{counted:.{printed.decimals}f}" == f"{printed.value:.{printed.decimals}f}":
        return Verdict(REPRODUCED)
    return Verdict(HIGHER if counted > printed.value else LOWER)


def not_comparable(runs: list[FinishedRun], paper: Settings) -> str:
    """Why a run's seeds don't compare with the paper; empty when they do.

    Args:
        paper: the project's configuration without overlays, which is the paper's protocol.
    """
    if any(one.settings.source.miniature for one in runs):
        return "miniature"
    subsets = [subset_text(one.settings.source) for one in runs if one.settings.source.classes]
    if subsets:
        return f"only {subsets[0]}"
    for one in runs:
        if one.dataset in paper.sources and one.run in paper.runs:
            changes = differences(one.settings, run_settings(paper, one.dataset, one.run))
            if changes:
                return f"another protocol: {', '.join(changes)}"
    return ""
