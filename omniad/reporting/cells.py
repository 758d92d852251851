"""The text of one number in a table cell."""

from __future__ import annotations

import math

from omniad.reporting.paper import Printed
from omniad.reporting.seeds import SeedMean
from omniad.reporting.tables import Ours, Row
from omniad.reporting.verdicts import HIGHER, INCONCLUSIVE, LOWER, REPRODUCED, Verdict

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NOT_RUN = "not run"
UNDEFINED = "undefined"
SIGNS = {REPRODUCED: "\N{CHECK MARK}", HIGHER: "\N{UPWARDS ARROW}", LOWER: "\N{DOWNWARDS ARROW}", INCONCLUSIVE: "?"}
WEIGHTS = {"imagenet": "torchvision's weights", "timm": "timm's weights"}
COST_HEADS = {"parameters": "Params (M)", "FLOPs": "FLOPs (G)"}


def percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign; what rounds to zero has none."""
    text = f"{value:+.1f}".replace("-", MINUS)
    return "0.0" if text[1:] == "0.0" else text


def measured_text(measured: SeedMean | None) -> str:
    """Mean, with the standard deviation where several seeds give one."""
    if measured is None:
        return NOT_RUN
    spread = "" if measured.std is None or math.isnan(measured.std) else f" ± {measured.std:.1f}"
    return percent(measured.mean) + spread


def difference_text(measured: SeedMean | None, printed: Printed | None) -> str:
    """Ours minus print, where there are both."""
    if measured is None or printed is None or math.isnan(measured.mean):
        return NOTHING
    return signed(measured.mean - printed.value)


def count_text(value: float | None, printed: Printed | None, verdict: Verdict | None = None) -> str:
    """A count to the printed precision, or to one decimal where nothing is printed; with its verdict's sign."""
    if value is None:
        return NOT_RUN
    return f"{value:.{printed.decimals if printed else 1}f}" + (f" {SIGNS[verdict.kind]}" if verdict else "")


def verdict_text(verdict: Verdict | None) -> str:
    """A verdict's sign and its interval's half-width; "(n = 8)": 8 seeds would decide it."""
    if verdict is None or not verdict.has_interval:
        return NOTHING
    seeds = f" (n = {verdict.seeds})" if verdict.seeds else ""
    return f"{SIGNS[verdict.kind]} ±{verdict.half_width:.2f}{seeds}"


def verdict_mark(verdict: Verdict | None) -> str:
    return verdict.kind if verdict and verdict.judged else ""


def seeds_text(ours: Ours) -> str:
    """How many seeds a mean is over; with those that are missing: "1 of 3"."""
    total = len(ours.seeds) + len(ours.missing)
    return str(total) if not ours.missing else f"{len(ours.seeds)} of {total}"


def source_text(ours: Ours, row: Row) -> str:
    """Which reading it is, and whose encoder weights it has where the row's runs differ in that."""
    differ = len({one.weights for one in row.ours}) > 1
    weights = WEIGHTS.get(ours.weights, ours.weights) if differ else ""
    parts = ", ".join(filter(None, ["ours", ours.variant, weights]))
    return parts + (" (miniature)" if ours.miniature else "")
