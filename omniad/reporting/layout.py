"""A table as a grid of text: which columns and lines there are and how a number is written.

Tables of accuracies are stacked: a line with what is printed, below it a line with what was measured here. Tables with
costs set print and ours side by side, because a cost has three numbers (print, both readings) and needs no spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omniad.reporting.complexity import COUNTS
from omniad.reporting.paper import Printed
from omniad.reporting.tables import VARIANTS, Measured, Ours, Row, Table

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NOT_RUN = "not run"
UNDEFINED = "undefined"
COST_HEADS = {"parameters": "Params (M)", "FLOPs": "FLOPs (G)"}


@dataclass
class Notes:
    """Footnotes of one table: the same text gets the same letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str, *notes: str) -> str:
        """`text` with the letters of its notes behind it."""
        for note in filter(None, notes):
            if note not in self.texts:
                self.texts.append(note)
            text += f" ({self._letter(note)})"
        return text

    def lines(self) -> list[str]:
        return [f"({self._letter(text)}) {text}" for text in self.texts]

    def _letter(self, note: str) -> str:
        position = self.texts.index(note)
        return "abcdefghijklmnopqrstuvwxyz"[position] if position < 26 else str(position + 1)


@dataclass(frozen=True)
class Grid:
    """A table as text. A head may have two lines, separated by a newline."""

    head: list[str]
    lines: list[list[str]]
    starts: list[bool]  # whether a line begins a group (another data set, another row of the paper)
    text_columns: int  # left-aligned ones, at the left
    notes: list[str]


def lay_out(table: Table) -> Grid:
    """The grid that is shown for a table."""
    return _grid(table, *(_side_by_side(table) if table.has_costs else _stacked(table)))


def percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign; what rounds to zero has none."""
    text = f"{value:+.1f}".replace("-", MINUS)
    return "0.0" if text[1:] == "0.0" else text


def measured_text(measured: Measured | None) -> str:
    """Mean, with the standard deviation where several seeds give one."""
    if measured is None:
        return NOT_RUN
    spread = "" if measured.std is None or math.isnan(measured.std) else f" ± {measured.std:.1f}"
    return percent(measured.mean) + spread


def difference_text(measured: Measured | None, printed: Printed | None) -> str:
    """Ours minus print, where there are both."""
    if measured is None or printed is None or math.isnan(measured.mean):
        return NOTHING
    return signed(measured.mean - printed.value)


def count_text(value: float | None, printed: Printed | None) -> str:
    """A count to the printed precision, or to one decimal where nothing is printed."""
    return NOT_RUN if value is None else f"{value:.{printed.decimals if printed else 1}f}"


def seeds_text(ours: Ours) -> str:
    """How many seeds a mean is over; with those that are missing: "1 of 3"."""
    total = len(ours.seeds) + len(ours.missing)
    return str(total) if not ours.missing else f"{len(ours.seeds)} of {total}"


def source_text(ours: Ours) -> str:
    return "ours" + (f", {ours.variant}" if ours.variant else "") + (" (miniature)" if ours.miniature else "")


Lines = list[tuple[Row, str, list[str]]]  # the row of the paper, its name with notes, the cells


def _grid(table: Table, head: list[str], lines: Lines, text_columns: int, notes: Notes) -> Grid:
    """Put the first columns in front: the data set where there are several, then the row's name."""
    several = len(table.datasets) > 1
    groups = [row.dataset if several or table.has_costs else row.label for row, _, _ in lines]
    return Grid(
        head=[*(["Data set"] if several else []), table.head, *head],
        lines=[[*([row.dataset_title] if several else []), name, *cells] for row, name, cells in lines],
        starts=[index > 0 and group != groups[index - 1] for index, group in enumerate(groups)],
        text_columns=text_columns + 1 + several,
        notes=notes.lines(),
    )


def _stacked(table: Table) -> tuple[list[str], Lines, int, Notes]:
    notes = Notes()
    lines: Lines = []
    for row in table.rows:
        if row.printed:
            cells = [_printed(row, column, notes) for column in table.columns]
            lines.append((row, row.label, ["paper", NOTHING, *cells]))
        for ours in row.ours:
            cells = [_measured(ours, column, notes) for column in table.columns]
            source = notes.mark(source_text(ours), *ours.notes)
            lines.append((row, row.label, [source, seeds_text(ours), *cells]))
            if row.printed and ours.values and not ours.miniature:
                cells = [_difference(ours, row, column) for column in table.columns]
                lines.append((row, row.label, ["difference", NOTHING, *cells]))
    return ["Source", "Seeds", *table.columns], lines, 1, notes


def _side_by_side(table: Table) -> tuple[list[str], Lines, int, Notes]:
    notes = Notes()
    head: list[str] = []
    sources = dict.fromkeys(source_text(row.ours[0]) for row in table.rows if row.ours)
    measured = ("; ".join(sources) or "ours", *(() if table.miniature else ("difference",)))
    for column in table.columns:
        parts = VARIANTS if column in COUNTS else measured
        head += [f"{COST_HEADS.get(column, column)}\n{part}" for part in ("paper", *parts)]
    lines: Lines = []
    for row in table.rows:
        cells: list[str] = []
        ours = row.ours[0] if row.ours else None
        for column in table.columns:
            printed = row.printed.get(column)
            cells.append(_printed(row, column, notes))
            if column in COUNTS:
                cells += [count_text(row.counted.get(variant, {}).get(column), printed) for variant in VARIANTS]
            else:
                cells.append(_measured(ours, column, notes) if ours else NOTHING)
                if not table.miniature:
                    cells.append(_difference(ours, row, column) if ours else NOTHING)
        name = notes.mark(row.label, *ours.notes) if ours else row.label
        lines.append((row, name, [*cells, seeds_text(ours) if ours else NOTHING]))
    return [*head, "Seeds"], lines, 0, notes


def _printed(row: Row, column: str, notes: Notes) -> str:
    printed = row.printed.get(column)
    return notes.mark(printed.text, printed.note) if printed else NOTHING


def _measured(ours: Ours, column: str, notes: Notes) -> str:
    measured = ours.measured(column)
    return notes.mark(measured_text(measured), measured.reason if measured else "")


def _difference(ours: Ours, row: Row, column: str) -> str:
    return difference_text(ours.measured(column), row.printed.get(column))
