"""Which runs each target of the workflow needs: table1 ... table7, ablations, figures, all, and those outside `all`.

Outside are a table's `extra_runs` (`table1_released`, `table1_default_torchvision`) and every target that rows of a
table name as their own (`target:` in config/tables.yaml).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omniad.config import Settings, known
from omniad.runs.files import RunName

Run = tuple[str, str]  # data set, run


def target_runs(settings: Settings) -> dict[str, set[Run]]:
    """Target -> the (data set, run) that it trains, without the data sets that the configuration leaves out."""
    figures = {(dataset, figure.run) for figure in settings.figures.values() for dataset in figure.datasets}
    ablations = [name for name, table in settings.tables.items() if name != "table1" and table.judged]
    runs = {table: _of_tables(settings, [table]) for table in settings.tables} | {
        "ablations": _of_tables(settings, ablations),
        "figures": figures,
        "all": _of_tables(settings, settings.tables) | figures,
    }
    for name, table in settings.tables.items():
        datasets = {row.dataset for row in table.rows if row.run and not row.target}
        runs |= {f"{name}_{run}": {(dataset, run) for dataset in datasets} for run in table.extra_runs}
    for row in (row for table in settings.tables.values() for row in table.rows if row.run and row.target):
        runs.setdefault(row.target, set()).add((row.dataset, row.run))
    return {
        target: {(dataset, run) for dataset, run in wanted if dataset in settings.datasets}
        for target, wanted in runs.items()
    }


def target_names(settings: Settings, target: str) -> list[RunName]:
    """All runs and seeds of a target, sorted.

    Raises:
        UserError: there is no such target.
    """
    targets = target_runs(settings)
    runs = sorted(targets[known(target, targets, "target")])
    return [RunName(*run, seed) for run in runs for seed in settings.seeds]


def run_folders(settings: Settings, target: str) -> list[Path]:
    """The folders of these. Raises UserError as `target_names` does."""
    return [name.folder(settings.results) for name in target_names(settings, target)]


def _of_tables(settings: Settings, tables: Iterable[str]) -> set[Run]:
    """(data set, run) of every row of these tables that has a run and does not name a target."""
    rows = (row for table in tables for row in settings.tables[table].rows)
    return {(row.dataset, row.run) for row in rows if row.run and not row.target}
