"""The parts of a claim on one data set: which numbers its form compares, and how."""

from __future__ import annotations

import itertools

from omniad.reporting.cells import signed
from omniad.reporting.claims.comparisons import Comparison, Estimate, Part, above, agrees, apart, within
from omniad.reporting.claims.exact import growth, images, mean, numbers
from omniad.reporting.claims.forms import (
    Above,
    Claim,
    Difference,
    Equal,
    Growth,
    Images,
    Increasing,
    Mean,
    Numbers,
    Range,
)
from omniad.reporting.claims.sources import NOT_PRINTED, Absent, Source
from omniad.reporting.complexity import Resolutions
from omniad.reporting.tables import Found

TIE = 0.05  # a difference up to here rounds to 0.0


def parts_of(found: Found, claim: Claim, source: Source, resolutions: Resolutions) -> list[Part]:
    """The parts of a claim on a source.

    Raises:
        Absent: a number that it needs isn't there.
    """
    match check := claim.check:
        case Above():
            return [_above(source, check, column) for column in check.columns]
        case Equal():
            return [_equal(found, source, check, column) for column in check.columns]
        case Difference():
            return [_difference(found, source, check, column) for column in check.columns]
        case Increasing():
            return [_increasing(source, check, column) for column in check.columns]
        case Range():
            return [_range(source, check, column) for column in check.columns]
        case Mean():
            return mean(source, check)
        case Images():
            return images(found, source, check)
        case Growth():
            return [growth(source, check, resolutions)]
        case Numbers():
            return [numbers(source, check)]


def _needed(estimate: Estimate | None) -> Estimate:
    if estimate is None:
        raise Absent(NOT_PRINTED)
    return estimate


def _above(source: Source, check: Above, column: str) -> Part:
    own = _needed(source.get(check.row, column))
    rows = source.rows()
    group = rows[check.row].group
    labels = check.than or [label for label in source.all_labels() if label != check.row and rows[label].group == group]
    others = [other for other in (source.get(label, column) for label in labels) if other is not None]
    if not others:
        raise Absent(NOT_PRINTED)
    nearest = (min if check.lower else max)(others, key=lambda one: one.value)
    # Of fixed numbers the nearest is enough: a value above that one is above the others.
    fixed = [one for one in others if not one.seeds]
    best = (min if check.lower else max)(fixed, key=lambda one: one.value, default=None)
    rivals = [one for one in others if one.seeds or one is best]
    pairs = [(rival, own) if check.lower else (own, rival) for rival in rivals]
    comparisons = [above(*pair, ties=TIE if check.ties else 0.0) for pair in pairs]
    return Part(f"{own.value:.1f} against {nearest.value:.1f}", column, comparisons)


def _equal(found: Found, source: Source, check: Equal, column: str) -> Part:
    """Here it holds when the verdict on the stated number would be "reproduced"."""
    stated, estimate = check.columns[column], _needed(source.get(check.row, column))
    comparison = agrees(estimate.value - stated, (estimate,), _margin(found, source, column))
    return Part(f"{estimate.value:.1f}", column, [comparison])


def _difference(found: Found, source: Source, check: Difference, column: str) -> Part:
    """Here it holds when the difference agrees with the stated one, as in a verdict, and has the stated sign."""
    pair = _needed(source.get(check.row, column)), _needed(source.get(check.minus, column))
    stated, gap = check.columns[column], pair[0].value - pair[1].value
    comparisons: list[Comparison] = [agrees(gap - stated, pair, _margin(found, source, column))]
    if source.measured:
        comparisons.append(above(pair[0], pair[1]) if stated > 0 else above(pair[1], pair[0]))
    return Part(signed(round(gap, 6)), column, comparisons)


def _margin(found: Found, source: Source, column: str) -> float:
    """What still counts as the stated number: printed ones must be equal."""
    return found.settings.verdicts.margins[column] if source.measured else 0.0


def _increasing(source: Source, check: Increasing, column: str) -> Part:
    values = [_needed(source.get(row, column)) for row in check.rows]
    steps = [above(b, a) for a, b in itertools.pairwise(values)]
    return Part(" → ".join(f"{value.value:.1f}" for value in values), column, steps)


def _range(source: Source, check: Range, column: str) -> Part:
    """At most: all pairs of rows are so close; at least: one pair is so far apart."""
    values = [_needed(source.get(row, column)) for row in check.rows or source.all_labels()]
    width = max(value.value for value in values) - min(value.value for value in values)
    text, pairs = f"{column} {width:.1f}", list(itertools.combinations(values, 2))
    if check.at_most is not None:
        return Part(text, column, [within(*pair, check.at_most) for pair in pairs])
    return Part(text, column, [apart(*pair, check.at_least or 0.0) for pair in pairs], any=True)
