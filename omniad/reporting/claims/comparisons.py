"""One comparison of a claim: whether a difference lies where the claim says, taking chance into account.

Printed numbers and counts are compared as they stand. Means over seeds differ by chance, each by its own run's spread;
Student's t takes the degrees of freedom of the run with fewer seeds, which keeps the error below its rate whatever the
two spreads are (Welch's own degrees of freedom do not, with two or three seeds: docs/verdicts.md).

Several comparisons in one claim: if all must hold, each is tested at 5 %, because one that does not hold is enough
to stop the claim; where one failure refutes the claim, each is tested at 5 % divided by their number (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from omniad.reporting.verdicts import FALSE_RATE, student

YES, NO, MAYBE = "holds", "fails", "undecided"
ROUNDING = 0.05  # of a number that the text states, which has one decimal
ZERO = 1e-6  # differences of printed numbers are this exact


@dataclass(frozen=True)
class Estimate:
    """A number to compare: printed or counted (no seeds), or a mean over seeds."""

    value: float
    seeds: int = 0
    std: float | None = None  # of the seeds; None with one seed
    rounding: float = 0.0  # of a print that stands for a method that was not run


@dataclass(frozen=True)
class Comparison:
    """A difference of one or two estimates, and where it should lie."""

    gap: float
    estimates: tuple[Estimate, ...]
    holds: tuple[float, float]  # true when the whole interval of the gap lies between these
    fails: tuple[float, float]  # false when it lies wholly outside these
    stated: bool = False  # against what the paper states: that is a draw of each measured run too, rounded

    @property
    def certain(self) -> bool:
        return not any(one.seeds or one.rounding for one in self.estimates)

    def answer(self, holds_rate: float = FALSE_RATE, fails_rate: float = FALSE_RATE) -> str:
        """YES, NO or MAYBE; the rates: how often each of the first two may be wrong."""
        gap, sure, contrary = round(self.gap, 6), self._chance(holds_rate), self._chance(fails_rate)
        if gap - sure > self.holds[0] and gap + sure < self.holds[1]:
            return YES
        outside = gap + contrary < self.fails[0] or gap - contrary > self.fails[1]
        return NO if outside or self.certain else MAYBE

    def _chance(self, rate: float) -> float:
        """How far the gap is off by rounding and, but for this fraction of cases, by chance."""
        measured = [one for one in self.estimates if one.seeds]
        # A printed number that the stated difference was made from is the same here as there.
        rounding = ROUNDING * len(measured) if self.stated else sum(one.rounding for one in self.estimates)
        if not measured:
            return rounding
        variance = 0.0
        for one in measured:
            if one.std is None:
                return math.inf
            variance += one.std**2 * (1 / one.seeds + self.stated)
        return rounding + float(student(min(one.seeds for one in measured) - 1, rate)) * math.sqrt(variance)


@dataclass(frozen=True)
class Part:
    """One line of a claim, usually a column: comparisons that must all hold, or an answer that nothing can blur."""

    text: str
    name: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    any: bool = False  # one comparison that holds is enough
    known: str = ""

    def answer(self, holds_rate: float, fails_rate: float) -> str:
        if self.known:
            return self.known
        answers = [one.answer(holds_rate, fails_rate) for one in self.comparisons]
        if self.any:
            return YES if YES in answers else MAYBE if MAYBE in answers else NO
        return NO if NO in answers else MAYBE if MAYBE in answers else YES


def answers(parts: list[Part], at_least: int, compared: int) -> list[str]:
    """Each part's answer, at the rates that a claim of so many comparisons needs.

    Args:
        at_least: how many parts must hold. Fewer than all give chance several ways to fulfil the claim.
        compared: comparisons of the whole claim that chance can blur.
    """
    fails_rate = FALSE_RATE / max(compared, 1)
    holds_rate = FALSE_RATE / (len(parts) - at_least + 1)
    return [part.answer(fails_rate if part.any else holds_rate, fails_rate) for part in parts]


def blurred(parts: Iterable[Part]) -> int:
    """How many of these comparisons chance can blur."""
    return sum(not one.certain for part in parts for one in part.comparisons)


def above(a: Estimate, b: Estimate, ties: float = 0.0) -> Comparison:
    """a is above b; a difference down to -ties counts as none."""
    bounds = (-ties, math.inf)
    return Comparison(a.value - b.value, (a, b), holds=bounds, fails=bounds)


def within(a: Estimate, b: Estimate, width: float) -> Comparison:
    """a and b differ by at most so much."""
    bounds = (-width - ZERO, width + ZERO)
    return Comparison(a.value - b.value, (a, b), holds=bounds, fails=bounds)


def apart(a: Estimate, b: Estimate, width: float) -> Comparison:
    """a and b differ by at least so much."""
    bounds = (width - ZERO, math.inf)
    return Comparison(abs(a.value - b.value), (a, b), holds=bounds, fails=bounds)


def agrees(gap: float, estimates: tuple[Estimate, ...], margin: float) -> Comparison:
    """What the paper states was reproduced, as a verdict says it of a number: `gap` is how far it is off."""
    return Comparison(gap, estimates, holds=(-margin - ZERO, margin + ZERO), fails=(0.0, 0.0), stated=True)
