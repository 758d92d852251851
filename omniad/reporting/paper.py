"""The printed numbers: `config/paper/*.csv`, one line per number, columns dataset, row, metric, value, note.

`per_class.csv` also has a column `class`: the printed numbers of Table I's other methods for each class.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniad.errors import UserError
from omniad.files import in_one_line, read_text, reading

PER_CLASS_FILE = "per_class.csv"
CELL = ("dataset", "row", "metric")
CLASS_CELL = ("dataset", "row", "class", "metric")

# (dataset, row, metric) -> the number
PaperTable = Mapping[tuple[str, ...], "Printed"]


@dataclass(frozen=True)
class Printed:
    """One printed number. Its text is kept, because 468 and 12.0 say how exact the paper is."""

    text: str
    note: str = ""

    @property
    def value(self) -> float:
        """In the paper's unit: percent, millions of parameters, 10^9 multiply-adds."""
        return float(self.text)

    @property
    def computed(self) -> bool:
        """Not printed at all: the mean of what is, as the note says. A claim about means says nothing about it."""
        return self.note.startswith("mean of the seven printed values")

    @property
    def decimals(self) -> int:
        """Digits behind the decimal point."""
        return len(self.text.partition(".")[2])

    @property
    def rounding(self) -> float:
        """The most that printing can have moved it: half a unit of the last digit."""
        return 0.5 * 10**-self.decimals


def read_paper(file: str | Path, cell: Sequence[str] = CELL) -> dict[tuple[str, ...], Printed]:
    """The printed numbers of one table by (dataset, row, metric), or by the other columns of `cell`.

    Raises:
        UserError: the file is missing, has other columns, holds something that is not a number, or names a cell twice.
    """
    file = Path(file)
    with reading(file, "not a table of printed values"):
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        lines = list(reader)
    columns = [*cell, "value", "note"]
    if reader.fieldnames != columns:
        names = ",".join(reader.fieldnames or [])
        raise UserError(f"{file}: the first line must be {','.join(columns)}, not {in_one_line(names)}")
    printed: dict[tuple[str, ...], Printed] = {}
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise UserError(f"{file}, line {number}: must have {len(columns)} fields, as the first line has")
        key = tuple(line[column] for column in cell)
        if not _is_number(line["value"]):
            raise UserError(
                f"{file}, line {number}: '{in_one_line(line['value'])}' is not a number; write it as printed"
            )
        if key in printed:
            raise UserError(
                f"{file}, line {number}: {in_one_line(', '.join(key))} appears twice; remove one of the two lines"
            )
        printed[key] = Printed(line["value"], line["note"])
    return printed


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9]{1,9}(\.[0-9]{1,6})?", text) is not None
