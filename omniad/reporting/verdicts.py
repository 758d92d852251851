"""Whether a printed number was reproduced, by one written rule.

A printed accuracy is one draw from the same population as the seeds here, rounded to one decimal. With n seeds and s_p,
the seeds' standard deviation pooled over all runs of that data set and metric (seeds.py), the mean here and the print
differ by chance with standard deviation s_p sqrt(1 + 1/n). So a number is *reproduced* when

    |mean - print| <= 0.05 + t(.975, df) s_p sqrt(1 + 1/n),

else *higher* or *lower*. The rule calls about 5 % of true reproductions different. Parameters and FLOPs have no spread:
they are reproduced when they are equal at the printed precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import stdtrit

from omniad.config import Settings, run_settings
from omniad.reporting.paper import Printed
from omniad.reporting.seeds import SeedMean, Spread
from omniad.runs.finished import FinishedRun, differences

ROUNDING = 0.05  # a number with one decimal is off by at most this
FALSE_RATE = 0.05  # of the rule: how often it calls a true reproduction different
REPRODUCED, HIGHER, LOWER, NOT_JUDGED = "reproduced", "higher", "lower", "not judged"


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one number."""

    kind: str
    half_width: float = math.nan  # of the interval around the print; NaN: not judged, or a count
    reason: str = ""  # why it is not judged

    @property
    def judged(self) -> bool:
        return self.kind != NOT_JUDGED


def judge(printed: Printed, measured: SeedMean, spread: Spread | None, unlike: str = "") -> Verdict:
    """The verdict on an accuracy in percent.

    Args:
        unlike: why the run doesn't compare with the paper (`not_comparable`); empty when it does.
    """
    if unlike:
        return Verdict(NOT_JUDGED, reason=unlike)
    if math.isnan(measured.mean):
        return Verdict(NOT_JUDGED, reason="undefined")
    if spread is None:
        return Verdict(NOT_JUDGED, reason="no spread: no run of this data set has two seeds")
    width = ROUNDING + chance(spread, 1 + 1 / measured.n)
    return Verdict(_compare(measured.mean - printed.value, width), width)


def judge_count(printed: Printed, counted: float) -> Verdict:
    """The verdict on parameters or FLOPs: equal at the printed precision, or not."""
    same = f"{counted:.{printed.decimals}f}" == f"{printed.value:.{printed.decimals}f}"
    return Verdict(REPRODUCED if same else _compare(counted - printed.value, 0))


def chance(spread: Spread, variances: float) -> float:
    """t(.975, df) s_p sqrt(variances): 95 % of differences with that many seeds' variances are smaller by chance."""
    return float(stdtrit(spread.df, 1 - FALSE_RATE / 2)) * spread.std * math.sqrt(variances)


def not_comparable(runs: list[FinishedRun], paper: Settings) -> str:
    """Why a run's seeds don't compare with the paper; empty when they do.

    Args:
        paper: the project's configuration without overlays, which is the paper's protocol.
    """
    if any(one.settings.source.miniature for one in runs):
        return "miniature"
    for one in runs:
        if one.dataset in paper.sources and one.run in paper.runs:
            changes = differences(one.settings, run_settings(paper, one.dataset, one.run))
            if changes:
                return f"another protocol: {', '.join(changes)}"
    return ""


def _compare(difference: float, width: float) -> str:
    return REPRODUCED if abs(difference) <= width else HIGHER if difference > 0 else LOWER
