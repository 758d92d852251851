"""A table of the paper as data: for each row the printed numbers, our measurements and our counts.

How that becomes columns and text is decided in layout.py; which rows there are, in config/tables.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omniad.config import (
    PAPER_FOLDER,
    VARIANTS,
    RowSettings,
    RunSettings,
    Settings,
    TableSettings,
    load_settings,
    run_settings,
)
from omniad.reporting.complexity import COUNTS
from omniad.reporting.paper import PaperTable, Printed, read_paper
from omniad.reporting.seeds import Key, RunKey, SeedMean, Summary, summarise
from omniad.reporting.verdicts import Verdict, judge, judge_count, not_comparable
from omniad.runs.finished import FinishedRun, differences
from omniad.runs.measurements import Measurement

SHOWN = "published"  # the definition of the metrics that is compared with printed numbers
DEFINITIONS = (SHOWN, "exact")
PRINTED_VARIANT = "released"  # whose parameters and FLOPs the paper prints
ROMAN = {str(number): text for number, text in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII"), start=1)}

Counts = Mapping[tuple[str, str, str], Mapping[str, float]]  # (table, row, variant) -> {"parameters", "FLOPs"}


@dataclass(frozen=True)
class Ours:
    """What one run gave on one data set."""

    run: str
    variant: str  # of Omni-AD; empty: another method
    weights: str  # the encoder's, a name of `model.encoder_weights`
    miniature: bool
    seeds: tuple[int, ...]  # that were run
    missing: tuple[int, ...]  # that are configured and were not run
    values: Mapping[Key, SeedMean]  # by (metric, definition)
    unlike: str  # why it doesn't compare with the paper; empty when it does
    verdicts: Mapping[str, Verdict]  # by column: on what was measured where something is printed
    notes: tuple[str, ...]

    def measured(self, column: str, definition: str = SHOWN) -> SeedMean | None:
        """A metric's value, None when it was not run."""
        return self.values.get((column, definition))


@dataclass(frozen=True)
class Row:
    """One row of the paper with everything that belongs to it."""

    dataset: str
    dataset_title: str
    label: str
    group: str  # which of the data set's rows it compares with; empty: all
    target: str  # what trains its run
    own: bool  # trained by the table's own target; else its run is another method's
    printed: Mapping[str, Printed]  # by column
    ours: tuple[Ours, ...]  # the row's run, then extra runs; empty in a row that is only printed
    counted: Mapping[str, Mapping[str, float]]  # by variant, then column; in millions and 10^9
    verdicts: Mapping[str, Verdict]  # by column: on the counts of PRINTED_VARIANT


@dataclass(frozen=True)
class Table:
    """One table: its rows in the paper's order."""

    name: str
    title: str
    about: str
    head: str
    columns: tuple[str, ...]
    judged: bool  # whether ours is compared with print
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """As the paper calls it: table4 is Table IV; one that is not the paper's goes by its title."""
        number = ROMAN.get(self.name.removeprefix("table"))
        return f"Table {number}" if number else self.title

    @property
    def heading(self) -> str:
        return self.title if self.label == self.title else f"{self.label}: {self.title}"

    @property
    def datasets(self) -> tuple[str, ...]:
        """Titles of its data sets, in order."""
        return tuple(dict.fromkeys(row.dataset_title for row in self.rows))

    @property
    def miniature(self) -> bool:
        """Whether any of its accuracies compares with nothing printed."""
        return any(ours.miniature for row in self.rows for ours in row.ours)

    @property
    def has_costs(self) -> bool:
        return any(column in COUNTS for column in self.columns)


@dataclass(frozen=True)
class Found:
    """What there is to fill tables with, and to check claims against."""

    settings: Settings
    runs: list[FinishedRun]
    counts: Counts
    summary: Summary
    unlike: Mapping[RunKey, str]  # why a run doesn't compare with the paper


def find(
    settings: Settings,
    measurements: Iterable[Measurement],
    runs: list[FinishedRun],
    counts: Counts,
    protocol: Settings | None = None,
) -> Found:
    """Collect what was measured.

    Args:
        measurements: the lines of measurements.csv.
        runs: the finished runs that they come from.
        counts: of `read_complexity`.
        protocol: the paper's; by default the project's configuration without overlays.
    """
    summary, paper = summarise(measurements), protocol or load_settings()
    seeds: dict[RunKey, list[FinishedRun]] = {}
    for run in runs:
        seeds.setdefault((run.dataset, run.run), []).append(run)
    unlike = {key: not_comparable(finished, paper) or _declared(settings, *key) for key, finished in seeds.items()}
    return Found(settings, runs, counts, summary, unlike)


def _declared(settings: Settings, dataset: str, run: str) -> str:
    """What the configuration itself says of how a run differs from the publication."""
    reason = settings.runs[run].unlike_on(dataset) if run in settings.runs else ""
    return f"unlike the publication: {reason}" if reason else ""


def build_tables(found: Found, paper: Path = PAPER_FOLDER) -> list[Table]:
    """Every table of the configuration, filled with what there is. `paper`: folder of the printed numbers."""
    return [
        _build(found, name, entry, read_paper(paper / entry.paper) if entry.paper else {})
        for name, entry in found.settings.tables.items()
    ]


def _build(found: Found, name: str, entry: TableSettings, printed: PaperTable) -> Table:
    rows = []
    for row in entry.rows:
        own = row.run and not row.target  # not another method's
        extra = [run for run in entry.extra_runs if own and (row.dataset, run) in found.summary]
        cells = {column: printed.get((row.dataset, row.label, column)) for column in entry.columns}
        shown = {column: cell for column, cell in cells.items() if cell is not None}
        counted = {
            variant: found.counts[name, row.label, variant]
            for variant in VARIANTS
            if (name, row.label, variant) in found.counts
        }
        rows.append(
            Row(
                dataset=row.dataset,
                dataset_title=found.settings.sources[row.dataset].title,
                label=row.label,
                group=row.group,
                target=row.target or name,
                own=not row.target,
                printed=shown,
                ours=tuple(_ours(found, row, run, shown if entry.judged else {}) for run in [row.run, *extra] if run),
                counted=counted,
                verdicts={
                    column: judge_count(shown[column], value)
                    for column, value in counted.get(PRINTED_VARIANT, {}).items()
                    if column in shown
                },
            )
        )
    return Table(name, entry.title, entry.about, entry.head, tuple(entry.columns), entry.judged, tuple(rows))


def _ours(found: Found, row: RowSettings, run: str, printed: Mapping[str, Printed]) -> Ours:
    """A run's numbers; its description comes from its folder, or from the configuration if there is none."""
    configured = run_settings(found.settings, row.dataset, run)
    finished = [one for one in found.runs if (one.dataset, one.run) == (row.dataset, run)]
    as_run = finished[0].settings if finished else configured
    seeds = tuple(one.seed for one in finished)
    values = found.summary.get((row.dataset, run), {})
    unlike = found.unlike.get((row.dataset, run), "")
    shown = {column: measured for (column, definition), measured in values.items() if definition == SHOWN}
    return Ours(
        run=run,
        variant=as_run.model.variant if as_run.model.method == "omni-ad" else "",
        weights=as_run.model.encoder_weights,
        miniature=as_run.source.miniature,
        seeds=seeds,
        missing=tuple(seed for seed in found.settings.seeds if seed not in seeds),
        values=values,
        unlike=unlike,
        verdicts={
            column: judge(printed[column], measured, found.settings.verdicts.margins[column], unlike)
            for column, measured in shown.items()
            if column in printed
        },
        notes=tuple(filter(None, [as_run.note, *_changes(finished, configured), _draws(shown)])),
    )


def _draws(shown: Mapping[str, SeedMean]) -> str:
    """How random a run's inference is, where it is."""
    drawn = {column: measured.draws for column, measured in shown.items() if not math.isnan(measured.draws)}
    if not drawn:
        return ""
    column = max(drawn, key=lambda name: drawn[name])
    return (
        "Inference is random; the value is from the first draw. The standard deviation between draws "
        f"is at most {drawn[column]:.2f} ({column})."
    )


def _changes(finished: list[FinishedRun], configured: RunSettings) -> list[str]:
    """A sentence for each set of seeds that was not trained as the configuration says now, so that nothing is mixed."""
    seeds: dict[str, list[str]] = {}
    for one in finished:
        text = ", ".join(differences(one.settings, configured))
        if text:
            seeds.setdefault(text, []).append(str(one.seed))
    return [f"Seed {', '.join(numbers)}: made with {text}." for text, numbers in seeds.items()]
