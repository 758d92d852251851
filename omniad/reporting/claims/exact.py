"""The parts of a claim that need no statistics: means of columns, numbers of images, growth of FLOPs, plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from omniad.data.counts import read_counts
from omniad.reporting.cells import NOT_RUN
from omniad.reporting.claims.comparisons import NO, ROUNDING, YES, ZERO, Part
from omniad.reporting.claims.forms import Growth, Images, Mean, Numbers
from omniad.reporting.claims.sources import NOT_MEASURABLE, NOT_PRINTED, Absent, Source
from omniad.reporting.complexity import Resolutions
from omniad.reporting.tables import Found


def mean(source: Source, check: Mean) -> list[Part]:
    parts = []
    for label, row in source.rows().items():
        printed = row.printed.get(check.column)
        if not source.measured and printed and printed.computed:
            continue
        try:
            values = [source.get(label, column) for column in check.of]
            stated = source.get(label, check.column)
        except Absent:
            continue
        if label in source.from_print or stated is None or None in values:
            continue
        gap = abs(sum(value.value for value in values if value) / len(values) - stated.value)
        parts.append(Part("", label, known=_known(gap <= ROUNDING + ZERO)))
    source.from_print.clear()
    if not parts:
        raise Absent(NOT_RUN if source.measured else NOT_PRINTED)
    return parts


def images(found: Found, source: Source, check: Images) -> list[Part]:
    """Against the counts of the published data set (config/counts), not against what was used here."""
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
        Part(f"{actual[name]:,} {name.replace('_', ' ')}", name, known=_known(actual[name] == value))
        for name, value in stated.items()
    ]


def growth(source: Source, check: Growth, resolutions: Resolutions) -> Part:
    """The exponent p in FLOPs ~ pixels^p between the smallest and the largest image."""
    if not source.measured:
        raise Absent(NOT_PRINTED)
    counted = resolutions.get(check.attention, {})
    if len(counted) < 2:
        raise Absent(NOT_RUN)
    low, high = min(counted), max(counted)
    power = math.log(counted[high] / counted[low]) / math.log((high / low) ** 2)
    true = (check.at_most is None or power <= check.at_most) and (check.at_least is None or power >= check.at_least)
    return Part(f"power {power:.2f}", known=_known(true))


def numbers(source: Source, check: Numbers) -> Part:
    if source.measured:
        raise Absent(NOT_MEASURABLE)
    text = f"{check.value:g} against {', '.join(f'{other:g}' for other in check.below)}"
    return Part(text, known=_known(all(check.value < other for other in check.below)))


def _known(true: bool) -> str:
    return YES if true else NO
