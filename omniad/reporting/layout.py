"""A table as a grid of text: which columns and lines there are.

Tables of accuracies are stacked: a line with what is printed, below it lines with what was measured here, the
difference and the verdict. Tables with costs set print and ours side by side, because a cost has three numbers (print,
both readings) and needs no spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from omniad.config import VARIANTS
from omniad.reporting.cells import (
    COST_HEADS,
    NOTHING,
    count_text,
    difference_text,
    measured_text,
    seeds_text,
    source_text,
    verdict_mark,
    verdict_text,
)
from omniad.reporting.complexity import COUNTS
from omniad.reporting.seeds import RunKey
from omniad.reporting.tables import PRINTED_VARIANT, Ours, Row, Table


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
    marks: list[list[str]]  # of each cell: best, second, a verdict's kind, or nothing
    kinds: list[str]  # of each line: paper, ours, difference, verdict
    runs: list[RunKey | None]  # whose numbers a line shows
    starts: list[bool]  # whether a line begins a group (another data set, another row of the paper)
    text_columns: int  # left-aligned ones, at the left
    notes: list[str]

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """Each line's cells with their marks."""
        return [list(zip(*line, strict=True)) for line in zip(self.lines, self.marks, strict=True)]


def lay_out(table: Table) -> Grid:
    """The grid that is shown for a table."""
    return _grid(table, *(_side_by_side(table) if table.has_costs else _stacked(table)))


@dataclass
class Line:
    """One line of a table before the columns in front are put to it."""

    row: Row
    kind: str  # paper, ours, difference, verdict
    cells: list[str]
    name: str
    run: str = ""  # whose numbers these are
    marks: list[str] = field(default_factory=list)


def _grid(table: Table, head: list[str], lines: list[Line], text_columns: int, notes: Notes) -> Grid:
    """Put the first columns in front: data set and group where there are several, then the row's name."""
    several, grouped = len(table.datasets) > 1, any(row.group for row in table.rows)
    front = 1 + several + grouped
    groups = [(line.row.dataset, line.row.group) if several or table.has_costs else line.row.label for line in lines]

    def before(dataset: str, group: str) -> list[str]:
        return [*([dataset] if several else []), *([group] if grouped else [])]

    return Grid(
        head=[*before("Data set", "Compare within"), table.head, *head],
        lines=[[*before(line.row.dataset_title, line.row.group), line.name, *line.cells] for line in lines],
        marks=[[""] * front + line.marks for line in lines],
        kinds=[line.kind for line in lines],
        runs=[(line.row.dataset, line.run) if line.run else None for line in lines],
        starts=[index > 0 and group != groups[index - 1] for index, group in enumerate(groups)],
        text_columns=text_columns + front,
        notes=notes.lines(),
    )


def _stacked(table: Table) -> tuple[list[str], list[Line], int, Notes]:
    notes = Notes()
    lines: list[Line] = []
    for row in table.rows:
        if row.printed:
            shared = _shared_note(row)
            cells = [_printed(row, column, notes, shared) for column in table.columns]
            lines.append(Line(row, "paper", [notes.mark("paper", shared), NOTHING, *cells], row.label))
        for ours in row.ours:
            # What another target runs has no line before it was: a list below the table names it.
            if ours.values or row.target == table.name or not row.printed:
                lines += _our_lines(table, row, ours, notes)
    for line in lines:
        line.marks = line.marks or [""] * len(line.cells)
    _mark_best(table, lines)
    return ["Source", "Seeds", *table.columns], lines, 1, notes


def _our_lines(table: Table, row: Row, ours: Ours, notes: Notes) -> list[Line]:
    """What was measured, its difference from the printed numbers, and the verdicts, if there are any."""
    cells = [_measured(ours, column, notes) for column in table.columns]
    compared = bool(table.judged and row.printed and ours.values and not ours.miniature)
    judged = any(verdict.has_interval for verdict in ours.verdicts.values())
    source = notes.mark(source_text(ours, row), *ours.notes, *_undecided(ours))
    lines = [Line(row, "ours", [source, seeds_text(ours), *cells], row.label, ours.run)]
    if compared:
        cells = [_difference(ours, row, column) for column in table.columns]
        lines.append(Line(row, "difference", ["difference", NOTHING, *cells], row.label, ours.run))
    if compared and judged:
        cells = [verdict_text(ours.verdicts.get(column)) for column in table.columns]
        kinds = [verdict_mark(ours.verdicts.get(column)) for column in table.columns]
        line = Line(row, "verdict", ["verdict", NOTHING, *cells], row.label, ours.run, ["", "", *kinds])
        lines.append(line)
    return lines


def _undecided(ours: Ours) -> list[str]:
    """Why a run's numbers have no interval; a table says of all its miniatures at once that they are not judged."""
    without = [verdict for verdict in ours.verdicts.values() if not verdict.has_interval and not ours.miniature]
    return sorted({f"{verdict.kind.capitalize()}: {verdict.reason}." for verdict in without})


def _mark_best(table: Table, lines: list[Line]) -> None:
    """Best and second best of each data set and group: among what is printed, and among what was measured here."""
    for kind in ("paper", "ours"):
        for place in dict.fromkeys((line.row.dataset, line.row.group) for line in lines):
            group = [line for line in lines if (line.kind, line.row.dataset, line.row.group) == (kind, *place)]
            for column in range(2, 2 + len(table.columns)):
                marks = rank_marks([_number(line.cells[column]) for line in group])
                for line, mark in zip(group, marks, strict=True):
                    line.marks[column] = mark


def _number(cell: str) -> float | None:
    """The number that a cell shows, without deviation and footnote; None when it shows none."""
    try:
        return float(cell.split(" ")[0])
    except ValueError:
        return None


def _side_by_side(table: Table) -> tuple[list[str], list[Line], int, Notes]:
    notes = Notes()
    head: list[str] = []
    sources = dict.fromkeys(source_text(row.ours[0], row) for row in table.rows if row.ours)
    judged = any(verdict.has_interval for row in table.rows for ours in row.ours for verdict in ours.verdicts.values())
    compared = () if table.miniature else ("difference", "verdict") if judged else ("difference",)
    measured = ("; ".join(sources) or "ours", *compared)
    for column in table.columns:
        parts = VARIANTS if column in COUNTS else measured
        head += [f"{COST_HEADS.get(column, column)}\n{part}" for part in ("paper", *parts)]
    lines = [_cost_line(table, row, compared, notes) for row in table.rows]
    for column in table.columns:
        if column not in COUNTS:  # of costs the smallest is not the best: a row is a trade-off
            for place in range(head.index(f"{column}\npaper"), head.index(f"{column}\npaper") + 2):
                for line, mark in zip(lines, rank_marks([_number(line.cells[place]) for line in lines]), strict=True):
                    line.marks[place] = mark
    return [*head, "Seeds"], lines, 0, notes


def _cost_line(table: Table, row: Row, compared: tuple[str, ...], notes: Notes) -> Line:
    ours = row.ours[0] if row.ours else None
    name = notes.mark(row.label, *ours.notes, *_undecided(ours)) if ours else row.label
    line = Line(row, "ours", [], name, ours.run if ours else "")
    for column in table.columns:
        printed = row.printed.get(column)
        line.cells.append(_printed(row, column, notes))
        line.marks.append("")
        if column in COUNTS:
            for variant in VARIANTS:
                verdict = row.verdicts.get(column) if variant == PRINTED_VARIANT else None
                line.cells.append(count_text(row.counted.get(variant, {}).get(column), printed, verdict))
                line.marks.append(verdict_mark(verdict))
        else:
            cells = [_measured(ours, column, notes) if ours else NOTHING]
            verdict = ours.verdicts.get(column) if ours else None
            if "difference" in compared:
                cells.append(_difference(ours, row, column) if ours else NOTHING)
            if "verdict" in compared:
                cells.append(verdict_text(verdict))
            line.cells += cells
            line.marks += ["" if name != "verdict" else verdict_mark(verdict) for name in ("ours", *compared)]
    line.cells.append(seeds_text(ours) if ours else NOTHING)
    line.marks.append("")
    return line


def _printed(row: Row, column: str, notes: Notes, shared: str = "") -> str:
    printed = row.printed.get(column)
    return notes.mark(printed.text, *({printed.note} - {shared})) if printed else NOTHING


def _shared_note(row: Row) -> str:
    """The note that all printed numbers of a row have, which then stands once; empty where they differ."""
    found = {printed.note for printed in row.printed.values()}
    return found.pop() if len(found) == 1 and len(row.printed) > 1 else ""


def _measured(ours: Ours, column: str, notes: Notes) -> str:
    measured = ours.measured(column)
    return notes.mark(measured_text(measured), measured.reason if measured else "")


def _difference(ours: Ours, row: Row, column: str) -> str:
    return difference_text(ours.measured(column), row.printed.get(column))


BEST, SECOND = "best", "second"


def rank_marks(values: Sequence[float | None]) -> list[str]:
    """For each value of a column BEST, SECOND or nothing; values at the precision in which they are shown.

    None and NaN never get a mark. A single number is compared with nothing and gets none either.
    """
    there = [value for value in values if value is not None and not math.isnan(value)]
    ranks = sorted(set(there), reverse=True)
    if len(there) < 2:
        return [""] * len(values)
    marks = dict(zip(ranks, (BEST, SECOND), strict=False))
    return ["" if value is None else marks.get(value, "") for value in values]
