"""Whether each printed number has a place in the tables: one with a misspelt row would silently be shown nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omniad.config import PAPER_FOLDER, Settings, known, load_settings
from omniad.metrics import METRICS
from omniad.reporting.complexity import COUNTS, OTHERS
from omniad.reporting.paper import CELL, CLASS_CELL, PER_CLASS_FILE, read_paper

Rows = dict[str, dict[str, None]]  # data set -> the labels of its rows


def check_paper(settings: Settings, folder: Path = PAPER_FOLDER) -> None:
    """Check every file of printed numbers that is in use. An overlay may show fewer rows than the project's tables.

    Raises:
        UserError: a file is malformed, or a line names a data set, row or metric that no table has.
    """
    files: dict[str, Rows] = {}
    every: Rows = {}
    for source in (settings, load_settings()):
        for table in source.tables.values():
            for row in table.rows:
                every.setdefault(row.dataset, {})[row.label] = None
                if table.paper:
                    files.setdefault(table.paper, {}).setdefault(row.dataset, {})[row.label] = None
    for name, rows in files.items():
        _check(folder / name, CELL, rows)
    if files:
        _check(folder / PER_CLASS_FILE, CLASS_CELL, every)
        _check(folder / OTHERS, CELL, every)


def _check(file: Path, cell: Sequence[str], rows: Rows) -> None:
    for number, key in enumerate(read_paper(file, cell), start=2):
        where, (dataset, row, *_, metric) = f"{file}, line {number}", key
        known(row, rows[known(dataset, rows, f"{where}: data set")], f"{where}: row of {dataset}")
        known(metric, (*METRICS, *COUNTS), f"{where}: metric")
