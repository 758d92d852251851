"""Whether each printed number has a place in the tables: one with a misspelt row would silently be shown nowhere."""

from __future__ import annotations

from pathlib import Path

from omniad.config import PAPER_FOLDER, Settings, known, load_settings
from omniad.metrics import METRICS
from omniad.reporting.complexity import COUNTS
from omniad.reporting.paper import read_paper


def check_paper(settings: Settings, folder: Path = PAPER_FOLDER) -> None:
    """Check the printed numbers of every configured table. An overlay may show fewer rows than the project's tables.

    Raises:
        UserError: a file is malformed, or a line names a data set, row or metric that does not exist.
    """
    rows: dict[str, dict[str, list[str]]] = {}  # file -> data set -> rows
    for source in (settings, load_settings()):
        for table in (table for table in source.tables.values() if table.paper):
            for row in table.rows:
                rows.setdefault(table.paper, {}).setdefault(row.dataset, []).append(row.label)
    for name, by_dataset in rows.items():
        for number, (dataset, row, metric) in enumerate(read_paper(folder / name), start=2):
            where = f"{folder / name}, line {number}"
            labels = by_dataset[known(dataset, by_dataset, f"{where}: data set")]
            known(row, dict.fromkeys(labels), f"{where}: row of {dataset}")
            known(metric, (*METRICS, *COUNTS), f"{where}: metric")
