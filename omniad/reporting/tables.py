"""A table of the paper as data: for each of its rows what is printed, what was measured here and what was counted here.

How that becomes columns and text is decided in layout.py; which rows there are, in config/tables.yaml.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omniad.config import RowSettings, RunSettings, Settings, TableSettings, run_settings
from omniad.reporting.complexity import COUNTS
from omniad.reporting.measurements import Measurement
from omniad.reporting.paper import PAPER_FOLDER, PaperTable, Printed, read_paper
from omniad.reporting.runs import FinishedRun, differences

DEFINITIONS = ("published", "exact")  # the first is the one that is shown beside print
VARIANTS = ("released", "equations")
ROMAN = {str(number): text for number, text in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII"), start=1)}

Counts = Mapping[tuple[str, str, str], Mapping[str, float]]  # (table, row, variant) -> {"parameters", "FLOPs"}
Summary = Mapping[tuple[str, str], Mapping[tuple[str, str], "Measured"]]  # (dataset, run) -> (metric, definition)


@dataclass(frozen=True)
class Measured:
    """A metric's mean over seeds, in percent."""

    mean: float  # NaN: undefined, for the given reason
    std: float | None  # of the seeds (ddof 1); None with one seed
    reason: str = ""


@dataclass(frozen=True)
class Ours:
    """What one run gave on one data set."""

    run: str
    variant: str  # of Omni-AD; empty: another method
    miniature: bool
    seeds: tuple[int, ...]  # that were run
    missing: tuple[int, ...]  # that are configured and were not run
    values: Mapping[tuple[str, str], Measured]  # by (metric, definition)
    notes: tuple[str, ...]

    def measured(self, column: str, definition: str = DEFINITIONS[0]) -> Measured | None:
        """A metric's value, None when it was not run."""
        return self.values.get((column, definition))


@dataclass(frozen=True)
class Row:
    """One row of the paper with everything that belongs to it."""

    dataset: str
    dataset_title: str
    label: str
    target: str  # what trains its run
    printed: Mapping[str, Printed]  # by column
    ours: tuple[Ours, ...]  # the row's run, then extra runs; empty in a row that is only printed
    counted: Mapping[str, Mapping[str, float]]  # by variant, then column; in millions and 10^9


@dataclass(frozen=True)
class Table:
    """One table: its rows in the paper's order."""

    name: str
    title: str
    about: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """As the paper calls it: table4 is Table IV."""
        number = ROMAN.get(self.name.removeprefix("table"))
        return f"Table {number}" if number else self.name

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


def build_tables(
    settings: Settings,
    measurements: Iterable[Measurement],
    runs: list[FinishedRun],
    counts: Counts,
    paper: Path = PAPER_FOLDER,
) -> list[Table]:
    """Every table of the configuration, filled with what there is.

    Args:
        measurements: the lines of measurements.csv.
        runs: the finished runs that they come from.
        counts: of `read_complexity`.
        paper: folder of the printed numbers.
    """
    values = summarise(measurements)
    return [
        _build(settings, name, entry, values, runs, counts, read_paper(paper / entry.paper))
        for name, entry in settings.tables.items()
    ]


def summarise(measurements: Iterable[Measurement]) -> Summary:
    """Mean and standard deviation over the seeds of each run's mean over classes."""
    seeds: dict[tuple[str, str], dict[tuple[str, str], list[Measurement]]] = {}
    for line in measurements:
        if line.class_ == "mean":
            of_run = seeds.setdefault((line.dataset, line.run), {})
            of_run.setdefault((line.metric, line.definition), []).append(line)
    return {run: {key: _over_seeds(lines) for key, lines in metrics.items()} for run, metrics in seeds.items()}


def _over_seeds(lines: list[Measurement]) -> Measured:
    percents = [100 * line.value for line in lines]
    std = statistics.stdev(percents) if len(percents) > 1 else None
    return Measured(statistics.fmean(percents), std, next(filter(None, (line.reason for line in lines)), ""))


def _build(
    settings: Settings,
    name: str,
    entry: TableSettings,
    values: Summary,
    runs: list[FinishedRun],
    counts: Counts,
    printed: PaperTable,
) -> Table:
    rows = []
    for row in entry.rows:
        own = row.run and not row.target  # not another method's
        extra = [run for run in entry.extra_runs if own and (row.dataset, run) in values]
        cells = {column: printed.get((row.dataset, row.label, column)) for column in entry.columns}
        rows.append(
            Row(
                dataset=row.dataset,
                dataset_title=settings.sources[row.dataset].title,
                label=row.label,
                target=row.target or name,
                printed={column: cell for column, cell in cells.items() if cell is not None},
                ours=tuple(_ours(settings, row, run, values, runs) for run in [row.run, *extra] if run),
                counted={
                    variant: counts[name, row.label, variant]
                    for variant in VARIANTS
                    if (name, row.label, variant) in counts
                },
            )
        )
    return Table(name, entry.title, entry.about, entry.head, tuple(entry.columns), tuple(rows))


def _ours(settings: Settings, row: RowSettings, run: str, values: Summary, runs: Iterable[FinishedRun]) -> Ours:
    """The numbers of a run; what is said about it comes from its folder, or from the configuration if there is none."""
    configured = run_settings(settings, row.dataset, run)
    finished = [one for one in runs if (one.dataset, one.run) == (row.dataset, run)]
    as_run = finished[0].settings if finished else configured
    seeds = tuple(one.seed for one in finished)
    return Ours(
        run=run,
        variant="" if row.target else as_run.model.variant,
        miniature=as_run.source.miniature,
        seeds=seeds,
        missing=tuple(seed for seed in settings.seeds if seed not in seeds),
        values=values.get((row.dataset, run), {}),
        notes=tuple(filter(None, [as_run.note, *_changes(finished, configured)])),
    )


def _changes(finished: list[FinishedRun], configured: RunSettings) -> list[str]:
    """A sentence for each set of seeds that was not trained as the configuration says now, so that nothing is mixed."""
    seeds: dict[str, list[str]] = {}
    for one in finished:
        text = ", ".join(differences(one.settings, configured))
        if text:
            seeds.setdefault(text, []).append(str(one.seed))
    return [f"Seed {', '.join(numbers)}: made with {text}." for text, numbers in seeds.items()]
