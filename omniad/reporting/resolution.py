"""`resolution.csv`: what the model costs at several image sizes, with learnable tokens and with plain attention."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omniad.errors import UserError
from omniad.files import write_csv

COLUMNS = ["attention", "image_size", "parameters", "macs"]
Resolutions = Mapping[str, Mapping[int, int]]  # attention (learnable, plain) -> image size -> multiply-adds


def write_resolutions(rows: Iterable[Mapping[str, Any]], out: str | Path) -> None:
    """Write the rows of `omniad.models.complexity.resolution_rows`."""
    write_csv(out, COLUMNS, rows)


def read_resolutions(file: str | Path) -> Resolutions:
    """Multiply-adds by attention and image size; empty when there is no such file.

    Raises:
        UserError: a line of the file does not hold whole numbers.
    """
    found: dict[str, dict[int, int]] = {}
    if not Path(file).exists():
        return found
    with Path(file).open(encoding="utf-8", newline="") as handle:
        lines = list(csv.DictReader(handle))
    try:
        for line in lines:
            found.setdefault(line["attention"], {})[int(line["image_size"])] = int(line["macs"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: not a file of `omniad complexity`; delete it and count again") from None
    return found
