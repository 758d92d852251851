"""What is printed: `config/paper/*.csv`, one line a number, columns dataset, row, metric, value, note.

`per_class.csv` has a column `class` more: what is printed of Table I's other methods for each class.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniad.config import CONFIG_FOLDER
from omniad.errors import UserError

PAPER_FOLDER = CONFIG_FOLDER / "paper"
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
    def decimals(self) -> int:
        """Digits behind the decimal point."""
        return len(self.text.partition(".")[2])


def read_paper(file: str | Path, cell: Sequence[str] = CELL) -> dict[tuple[str, ...], Printed]:
    """The printed numbers of one table by (dataset, row, metric), or by the other columns of `cell`.

    Raises:
        UserError: the file is missing, has other columns, holds something that is not a number, or names a cell twice.
    """
    file = Path(file)
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            lines = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot read the printed numbers: {error}") from None
    columns = [*cell, "value", "note"]
    if reader.fieldnames != columns:
        raise UserError(f"{file}: the first line must be {','.join(columns)}, not {','.join(reader.fieldnames or [])}")
    printed: dict[tuple[str, ...], Printed] = {}
    for number, line in enumerate(lines, start=2):
        key = tuple(line[column] for column in cell)
        if not _is_number(line["value"]):
            raise UserError(f"{file}, line {number}: '{line['value']}' is not a number; write it as it is printed")
        if key in printed:
            raise UserError(f"{file}, line {number}: {', '.join(key)} stands there twice; remove one of the two lines")
        printed[key] = Printed(line["value"], line["note"] or "")
    return printed


def _is_number(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False
