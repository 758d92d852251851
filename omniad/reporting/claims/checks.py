"""Each claim checked twice: on the paper's own printed tables, and on what was measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omniad.reporting.cells import NOT_RUN
from omniad.reporting.claims.comparisons import MAYBE, NO, YES, Part, answers, blurred
from omniad.reporting.claims.forms import Above, Claim
from omniad.reporting.claims.parts import parts_of
from omniad.reporting.claims.sources import NOT_MEASURABLE, NOT_PRINTED, Absent, Source
from omniad.reporting.complexity import Resolutions
from omniad.reporting.tables import Found, Table
from omniad.reporting.verdicts import NOT_JUDGED, ONE_SEED

ORDER = (NO, NOT_PRINTED, NOT_MEASURABLE, NOT_RUN, NOT_JUDGED, MAYBE, YES)  # the first of several data sets' decides


@dataclass(frozen=True)
class Result:
    """Whether a claim holds, and the numbers that say so."""

    status: str
    shows: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def remark(self) -> str:
        return "; ".join(self.remarks)

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


def check_claims(
    found: Found, tables: Iterable[Table], claims: Mapping[str, Claim], resolutions: Resolutions
) -> list[CheckedClaim]:
    """Every claim with both answers."""
    by_name = {table.name: table for table in tables}
    checked = []
    for name, claim in claims.items():
        results = []
        for measured in (False, True):
            sources = [Source(by_name.get(claim.table), dataset, measured) for dataset in claim.datasets]
            results.append(_check(found, claim, sources, resolutions))
        checked.append(CheckedClaim(name, claim, *results))
    return checked


def _check(found: Found, claim: Claim, sources: list[Source], resolutions: Resolutions) -> Result:
    """One answer for all data sets of a claim: it must hold on each."""
    absent: list[Result] = []
    there: list[tuple[Source, list[Part]]] = []
    for source in sources:
        try:
            there.append((source, parts_of(found, claim, source, resolutions)))
        except Absent as reason:
            status, _, remark = str(reason).partition(": ")
            absent.append(Result(status, remarks=(remark,) if remark else ()))
    compared = sum(blurred(parts) for _, parts in there)
    results = [*absent, *(_settle(found, claim, source, parts, compared) for source, parts in there)]
    status = min((result.status for result in results), key=ORDER.index)
    return Result(
        status,
        "; ".join(dict.fromkeys(result.shows for result in results if result.shows)),
        tuple(dict.fromkeys(remark for result in results for remark in result.remarks)),
    )


def _settle(found: Found, claim: Claim, source: Source, parts: list[Part], compared: int) -> Result:
    """The answer on one data set: all parts must hold, or as many as the claim says."""
    at_least = (isinstance(claim.check, Above) and claim.check.at_least) or len(parts)
    given = answers(parts, at_least, compared)
    sure, possible = given.count(YES), given.count(YES) + given.count(MAYBE)
    status = YES if sure >= at_least else MAYBE if possible >= at_least else NO
    shows = _show(parts, given, judged=not source.unlike)
    if len(claim.datasets) > 1 and shows:
        shows = f"{found.settings.sources[source.dataset].title}: {shows}"
    remarks = []
    if source.measured and source.table is not None:
        if source.runs == 0:
            return Result(NOT_RUN)
        if source.unlike:
            return Result(NOT_JUDGED, shows, tuple(sorted(source.unlike)))
        if source.from_print:
            names = sorted(source.from_print)
            remarks.append(f"{', '.join(names) if len(names) < 3 else f'{len(names)} methods'} as printed")
        if status == MAYBE and source.one_seed:
            remarks.append(ONE_SEED)
    return Result(status, shows, tuple(remarks))


def _show(parts: list[Part], given: list[str], judged: bool) -> str:
    """The numbers of a few parts, with the answer where it is not the same for all; of many only which are not true."""
    if len(parts) <= 4 and all(part.text for part in parts):
        differ = judged and len(set(given)) > 1
        marks = [f" ({answer})" if differ and answer != YES else "" for answer in given]
        return ", ".join(part.text + mark for part, mark in zip(parts, marks, strict=True))
    if not judged:
        return ""
    shows = f"{given.count(YES)} of {len(parts)}"
    for word, answer in (("not", NO), ("undecided", MAYBE)):
        names = [part.name for part, one in zip(parts, given, strict=True) if one == answer]
        shows += f", {word} {', '.join(names)}" if names else ""
    return shows
