"""Each claim checked twice: on the paper's own printed tables, and on what was measured here.

Printed numbers are compared as they stand. Measured means are compared with the same pooled s_p as the verdicts: a
difference of two runs of n and m seeds goes by chance up to t(.975, df) s_p sqrt(1/n + 1/m), so a comparison is true,
false or undecided. Where a row is only printed (another method that was not run here), its print stands for one seed,
rounded to one decimal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omniad.data.counts import read_counts
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
from omniad.reporting.claims.sources import NOT_MEASURABLE, NOT_PRINTED, Absent, Estimate, Source
from omniad.reporting.complexity import Resolutions
from omniad.reporting.layout import NOT_RUN, signed
from omniad.reporting.tables import Found, Table
from omniad.reporting.verdicts import NOT_JUDGED, ROUNDING

YES, NO, MAYBE = "holds", "fails", "undecided"
ORDER = (NO, NOT_PRINTED, NOT_MEASURABLE, NOT_RUN, NOT_JUDGED, MAYBE, YES)  # the first of several data sets' decides


@dataclass(frozen=True)
class Result:
    """Whether a claim holds, and the numbers that say so."""

    status: str
    shows: str = ""
    remark: str = ""

    @property
    def text(self) -> str:
        """Behind the status: the numbers, and what qualifies the answer."""
        return self.shows + (f" ({self.remark})" if self.remark and self.shows else self.remark)


@dataclass(frozen=True)
class CheckedClaim:
    name: str
    claim: Claim
    printed: Result
    measured: Result


@dataclass(frozen=True)
class Part:
    """One comparison of a claim."""

    answer: str  # YES, NO, MAYBE
    text: str
    name: str = ""


def check_claims(
    found: Found, tables: Iterable[Table], claims: Mapping[str, Claim], resolutions: Resolutions
) -> list[CheckedClaim]:
    """Every claim with both answers."""
    by_name = {table.name: table for table in tables}
    checked = []
    for name, claim in claims.items():
        results = []
        for measured in (False, True):
            table = by_name.get(claim.table)
            sources = [Source(table, dataset, measured, found.spreads) for dataset in claim.datasets]
            results.append(_check(found, claim, sources, resolutions))
        checked.append(CheckedClaim(name, claim, *results))
    return checked


def _check(found: Found, claim: Claim, sources: list[Source], resolutions: Resolutions) -> Result:
    """One answer for all data sets of a claim: it must hold on each."""
    results = []
    for source in sources:
        try:
            parts, at_least = _parts(found, claim, source, resolutions)
            results.append(_settle(parts, at_least, source, several=len(sources) > 1, found=found))
        except Absent as reason:
            status, _, remark = str(reason).partition(": ")
            results.append(Result(status, remark=remark))
    status = min((result.status for result in results), key=ORDER.index)
    shown = [result for result in results if result.shows]
    return Result(
        status,
        "; ".join(dict.fromkeys(result.shows for result in shown)),
        "; ".join(dict.fromkeys(result.remark for result in results if result.remark)),
    )


def _settle(parts: list[Part], at_least: int, source: Source, several: bool, found: Found) -> Result:
    """At least so many parts must be true."""
    sure = sum(part.answer == YES for part in parts)
    possible = sure + sum(part.answer == MAYBE for part in parts)
    status = YES if sure >= at_least else MAYBE if possible >= at_least else NO
    shows = _show(parts, sure, judged=not source.unlike)
    if several and shows:
        shows = f"{found.settings.sources[source.dataset].title}: {shows}"
    remarks = []
    if source.measured and source.table is not None:
        if source.runs == 0:
            return Result(NOT_RUN)
        if source.unlike:
            return Result(NOT_JUDGED, shows, "; ".join(sorted(source.unlike)))
        if source.from_print:
            names = sorted(source.from_print)
            remarks.append(f"{', '.join(names) if len(names) < 3 else f'{len(names)} methods'} as printed")
        if status == MAYBE and source.spreadless:
            remarks.append("no spread: no run of this data set has two seeds")
    return Result(status, shows, "; ".join(remarks))


def _show(parts: list[Part], sure: int, judged: bool) -> str:
    """The numbers of a few comparisons; of many only which of them are not true."""
    if len(parts) <= 4 and all(part.text for part in parts):
        return ", ".join(part.text for part in parts)
    if not judged:
        return ""
    shows = f"{sure} of {len(parts)}"
    for word, answer in (("not", NO), ("undecided", MAYBE)):
        names = [part.name for part in parts if part.answer == answer]
        shows += f", {word} {', '.join(names)}" if names else ""
    return shows


def _parts(found: Found, claim: Claim, source: Source, resolutions: Resolutions) -> tuple[list[Part], int]:
    """A claim's comparisons on one data set, and how many of them must be true."""
    match check := claim.check:
        case Above():
            parts = [_above(source, check, column) for column in check.columns]
            return parts, check.at_least or len(parts)
        case Equal():
            parts = [_equal(source, check, column) for column in check.columns]
        case Difference():
            parts = [_difference(source, check, column) for column in check.columns]
        case Increasing():
            parts = _increasing(source, check)
        case Range():
            parts = [_range(source, check, column) for column in check.columns]
        case Mean():
            parts = _mean(source, check)
        case Images():
            parts = _images(found, source, check)
        case Growth():
            parts = [_growth(source, check, resolutions)]
        case Numbers():
            parts = [_numbers(source, check)]
    return parts, len(parts)


def _compare(source: Source, column: str, a: Estimate, b: Estimate, ties: bool = False) -> str:
    """Whether a is above b."""
    gap = round(a.value - b.value, 6)
    noise = a.rounding + b.rounding + source.chance(column, a.variance + b.variance)
    if noise == 0:
        return YES if gap > 0 or (ties and gap == 0) else NO
    return YES if gap > noise else NO if gap < -noise else MAYBE


def _all(answers: Iterable[str]) -> str:
    """True when all are, false when one is."""
    answers = list(answers)
    return NO if NO in answers else MAYBE if MAYBE in answers else YES


def _needed(estimate: Estimate | None) -> Estimate:
    if estimate is None:
        raise Absent(NOT_PRINTED)
    return estimate


def _equal(source: Source, check: Equal, column: str) -> Part:
    stated, estimate = check.columns[column], _needed(source.get(check.row, column))
    gap = abs(estimate.value - stated)
    if not source.measured:
        return Part(YES if gap < 1e-6 else NO, f"{estimate.value:.1f}", column)
    noise = ROUNDING + source.chance(column, estimate.variance + 1)  # the stated number is one draw, rounded
    answer = MAYBE if math.isinf(noise) else YES if gap <= noise else NO
    return Part(answer, f"{estimate.value:.1f}", column)


def _difference(source: Source, check: Difference, column: str) -> Part:
    """Here it holds when the difference agrees with the stated one and is not 0."""
    a, b = _needed(source.get(check.row, column)), _needed(source.get(check.minus, column))
    gap, stated = round(a.value - b.value, 6), check.columns[column]
    text = signed(gap)
    if not source.measured:
        return Part(YES if abs(gap - stated) < 1e-6 else NO, text, column)
    variance = a.variance + b.variance
    off = 2 * ROUNDING + source.chance(column, variance + 2)  # the stated difference is one of two draws, both rounded
    if abs(gap - stated) > off:
        return Part(NO, text, column)
    return Part(_compare(source, column, a, b) if _compare(source, column, a, b) == YES else MAYBE, text, column)


def _above(source: Source, check: Above, column: str) -> Part:
    own = _needed(source.get(check.row, column))
    rows = source.rows()
    group = rows[check.row].group
    others = check.than or [label for label in rows if label != check.row and rows[label].group == group]
    pairs = [(own, other) for other in (source.get(label, column) for label in others) if other is not None]
    answers = [_compare(source, column, *(pair[::-1] if check.lower else pair), ties=check.ties) for pair in pairs]
    if not answers:
        raise Absent(NOT_PRINTED)
    nearest = (min if check.lower else max)(other.value for _, other in pairs)
    return Part(_all(answers), f"{own.value:.1f} against {nearest:.1f}", column)


def _increasing(source: Source, check: Increasing) -> list[Part]:
    parts = []
    for column in check.columns:
        values = [_needed(source.get(row, column)) for row in check.rows]
        steps = [_compare(source, column, b, a) for a, b in itertools.pairwise(values)]
        parts.append(Part(_all(steps), " → ".join(f"{value.value:.1f}" for value in values), column))
    return parts


def _range(source: Source, check: Range, column: str) -> Part:
    values = [_needed(source.get(row, column)) for row in check.rows or source.rows()]
    low, high = (pick(values, key=lambda one: one.value) for pick in (min, max))
    width = round(high.value - low.value, 6)
    noise = low.rounding + high.rounding + source.chance(column, low.variance + high.variance)
    answers = []
    if check.at_most is not None:
        answers.append(YES if width + noise <= check.at_most else NO if width - noise > check.at_most else MAYBE)
    if check.at_least is not None:
        answers.append(YES if width - noise >= check.at_least else NO if width + noise < check.at_least else MAYBE)
    return Part(_all(answers), f"{column} {width:.1f}", column)


def _mean(source: Source, check: Mean) -> list[Part]:
    parts = []
    for label in source.rows():
        try:
            values = [source.get(label, column) for column in check.of]
            stated = source.get(label, check.column)
        except Absent:
            continue
        if label in source.from_print or stated is None or None in values:
            continue
        gap = abs(sum(value.value for value in values if value) / len(values) - stated.value)
        parts.append(Part(YES if gap <= ROUNDING + 1e-6 else NO, "", label))
    source.from_print.clear()
    if not parts:
        raise Absent(NOT_RUN if source.measured else NOT_PRINTED)
    return parts


def _images(found: Found, source: Source, check: Images) -> list[Part]:
    """Against the counts of the published data set (config/counts), whatever of it was used here; not a miniature's."""
    if not source.measured:
        raise Absent(NOT_PRINTED)
    entry = found.settings.sources[source.dataset]
    if entry.miniature:
        raise Absent(NOT_RUN)
    expected = read_counts(entry.counts, []) or {}
    if not expected:
        raise Absent(NOT_RUN)
    normal = {key: number for key, number in expected.items() if key[2] == "good"}

    def total(counts: Mapping[tuple[str, str, str], int], split: str = "") -> int:
        return sum(number for (_, one, _), number in counts.items() if split in ("", one))

    actual = {
        "classes": len({key[0] for key in expected}),
        "all": total(expected),
        "normal": total(normal),
        "train": total(expected, "train"),
        "test": total(expected, "test"),
        "test_normal": total(normal, "test"),
        "test_anomalous": total(expected, "test") - total(normal, "test"),
    }
    stated = {name: value for name, value in check.model_dump(exclude={"form"}).items() if value is not None}
    return [
        Part(YES if actual[name] == value else NO, f"{actual[name]:,} {name.replace('_', ' ')}", name)
        for name, value in stated.items()
    ]


def _growth(source: Source, check: Growth, resolutions: Resolutions) -> Part:
    """The exponent p in FLOPs ~ pixels^p between the smallest and the largest image."""
    if not source.measured:
        raise Absent(NOT_PRINTED)
    counted = resolutions.get(check.attention, {})
    if len(counted) < 2:
        raise Absent(NOT_RUN)
    low, high = min(counted), max(counted)
    power = math.log(counted[high] / counted[low]) / math.log((high / low) ** 2)
    true = (check.at_most is None or power <= check.at_most) and (check.at_least is None or power >= check.at_least)
    return Part(YES if true else NO, f"power {power:.2f}")


def _numbers(source: Source, check: Numbers) -> Part:
    if source.measured:
        raise Absent(NOT_MEASURABLE)
    text = f"{check.value:g} against {', '.join(f'{other:g}' for other in check.below)}"
    return Part(YES if all(check.value < other for other in check.below) else NO, text)
