"""Per-class tables: each metric of each class, for each data set and run, and the files with the image scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniad.config import PAPER_FOLDER, Settings
from omniad.files import write_csv
from omniad.reporting.cells import NOTHING, measured_text, signed
from omniad.reporting.paper import CLASS_CELL, PER_CLASS_FILE, Printed, read_paper
from omniad.reporting.seeds import Key, SeedMean, Summary, summarise
from omniad.reporting.tables import DEFINITIONS, SHOWN
from omniad.runs.finished import FinishedRun
from omniad.runs.measurements import Measurement

CSV_COLUMNS = ["class", "metric", "definition", "mean", "std", "seeds", "printed", "reason"]


@dataclass(frozen=True)
class ClassTable:
    """The classes of one data set under one run; "mean" is the last."""

    dataset: str
    run: str
    title: str  # the data set's
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]  # of the seeds
    metrics: tuple[str, ...]
    classes: dict[str, dict[Key, SeedMean]]
    row: str = ""  # of Table I, of which the printed numbers are
    printed: Mapping[tuple[str, str], Printed] = field(default_factory=dict)  # by class and metric

    @property
    def name(self) -> str:
        """Of its files and of its place in the report."""
        return f"{self.dataset}-{self.run}"

    @property
    def key(self) -> tuple[str, str]:
        return self.dataset, self.run

    @property
    def head(self) -> list[str]:
        return ["Class", *self.metrics]

    @property
    def lines(self) -> list[list[str]]:
        """A line per class: mean and standard deviation over the seeds, percent, in the printed numbers' definition.

        What is printed stands behind it in brackets.
        """
        return [
            [name, *(self._text(name, metric, values.get((metric, SHOWN))) for metric in self.metrics)]
            for name, values in self.classes.items()
        ]

    @property
    def about_print(self) -> str:
        """A sentence on the numbers in brackets; "" where nothing is printed."""
        if not self.printed:
            return ""
        notes = {
            f"{name}, {metric}: {number.note}" if "misprint" in number.note else f"{metric}: {number.note}"
            for (name, metric), number in self.printed.items()
            if number.note
        }
        return " ".join([f"In brackets: the printed numbers of {self.row}.", *(f"{note}." for note in sorted(notes))])

    def _text(self, name: str, metric: str, measured: SeedMean | None) -> str:
        text = NOTHING if measured is None else measured_text(measured)
        printed = self.printed.get((name, metric))
        return f"{text} ({printed.text})" if printed else text


def class_tables(
    settings: Settings, measurements: Iterable[Measurement], runs: list[FinishedRun], paper: Path = PAPER_FOLDER
) -> list[ClassTable]:
    """A table for each data set and run that was evaluated; `paper`: folder of the printed numbers."""
    numbers = read_paper(paper / PER_CLASS_FILE, CLASS_CELL)
    rows = _printed_rows(settings, {(dataset, row) for dataset, row, _, _ in numbers})
    lines: dict[tuple[str, str], list[Measurement]] = {}
    for line in measurements:
        lines.setdefault((line.dataset, line.run), []).append(line)
    tables = []
    for (dataset, run), found in lines.items():
        seeds = [one for one in runs if (one.dataset, one.run) == (dataset, run)]
        row = "" if seeds[0].settings.source.miniature else rows.get((dataset, run), "")
        names = sorted({line.class_ for line in found} - {"mean"})
        by_class: dict[str, list[Measurement]] = {}
        for line in found:
            by_class.setdefault(line.class_, []).append(line)
        tables.append(
            ClassTable(
                dataset=dataset,
                run=run,
                title=seeds[0].title,
                seeds=tuple(one.seed for one in seeds),
                folders=tuple(one.folder for one in seeds),
                metrics=tuple(dict.fromkeys(line.metric for line in found)),
                classes={
                    name: dict(summarise(by_class[name], name)[dataset, run])
                    for name in (*names, "mean")
                    if name in by_class
                },
                row=row,
                printed={
                    (name, metric): number
                    for (of, method, name, metric), number in numbers.items()
                    if (of, method) == (dataset, row) and name in names
                },
            )
        )
    return tables


def _printed_rows(settings: Settings, printed: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(data set, run) -> the row of a table that shows it, if that row's classes are printed."""
    rows = [row for table in settings.tables.values() for row in table.rows]
    return {(row.dataset, row.run): row.label for row in rows if row.run and (row.dataset, row.label) in printed}


def write_classes(table: ClassTable, file: Path) -> None:
    """Every class, metric and definition, in percent."""
    write_csv(file, CSV_COLUMNS, _csv_lines(table), for_people=True)


def _csv_lines(table: ClassTable) -> Iterator[dict[str, Any]]:
    for name, values in table.classes.items():
        for (metric, definition), measured in values.items():
            yield {
                "class": name,
                "metric": metric,
                "definition": definition,
                "mean": "" if measured.mean != measured.mean else f"{measured.mean:.4f}",
                "std": "" if measured.std is None else f"{measured.std:.4f}",
                "seeds": measured.n,
                "printed": printed.text if (printed := table.printed.get((name, metric))) else "",
                "reason": measured.reason,
            }


@dataclass(frozen=True)
class BothDefinitions:
    """One table: for each run a line a definition, and how far they are apart."""

    head: list[str]
    lines: list[list[str]]


def both_definitions(summary: Summary, runs: list[FinishedRun]) -> BothDefinitions:
    """The means over classes and seeds; of each run one of its seeds is named."""
    names = list(dict.fromkeys(metric for run in runs for metric, _ in summary.get((run.dataset, run.run), {})))
    lines = []
    for run in runs:
        values = summary.get((run.dataset, run.run), {})
        columns = {definition: [values.get((name, definition)) for name in names] for definition in DEFINITIONS}
        for definition, column in columns.items():
            lines.append([run.title, run.run, definition, *map(measured_text, column)])
        lines.append([run.title, run.run, "difference", *map(_apart, *columns.values())])
    return BothDefinitions(["Data set", "Run", "Definition", *names], lines)


def _apart(shown: SeedMean | None, exact: SeedMean | None) -> str:
    if shown is None or exact is None or math.isnan(shown.mean - exact.mean):
        return NOTHING
    return signed(shown.mean - exact.mean)
