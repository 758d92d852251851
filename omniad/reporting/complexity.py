"""`complexity.csv`: the parameters and multiply-adds that the tables show, one line a table row and variant."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omniad.errors import UserError
from omniad.files import write_csv

COLUMNS = ["table", "row", "variant", "parameters", "macs", "reported_parameters_m", "reported_flops_g", "note"]
# The tables' name of a count -> its column here, and the number that is one of the table's units.
COUNTS = {"parameters": ("parameters", 1e6), "FLOPs": ("macs", 1e9)}


def write_complexity(rows: Iterable[Mapping[str, Any]], out: str | Path) -> None:
    """Write the rows of `omniad.models.complexity.complexity_rows`; what the paper does not print stays empty."""
    write_csv(out, COLUMNS, rows)


def read_complexity(file: str | Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """Counts by (table, row, variant): {"parameters": millions, "FLOPs": 10^9}; empty when there is no such file.

    Raises:
        UserError: a line of the file does not hold whole numbers.
    """
    if not Path(file).exists():
        return {}
    with Path(file).open(encoding="utf-8", newline="") as handle:
        lines = list(csv.DictReader(handle))
    try:
        return {
            (line["table"], line["row"], line["variant"]): {
                name: int(line[column]) / unit for name, (column, unit) in COUNTS.items()
            }
            for line in lines
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: not a file of `omniad complexity`; delete it and count again") from None
