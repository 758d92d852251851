"""Which runs each target of the workflow needs: table1 ... table7, ablations, figures, table1_released, all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omniad.config import Settings, known

Run = tuple[str, str]  # data set, run


def target_runs(settings: Settings) -> dict[str, set[Run]]:
    """Target -> the (data set, run) that it trains, without the data sets that the configuration leaves out."""
    figures = {(dataset, figure.run) for figure in settings.figures.values() for dataset in figure.datasets}
    ablations = [table for table in settings.tables if table != "table1"]
    runs = {table: _of_tables(settings, [table]) for table in settings.tables} | {
        "ablations": _of_tables(settings, ablations),
        "figures": figures,
        "table1_released": {(dataset, "released") for dataset in settings.datasets},
        "all": _of_tables(settings, settings.tables) | figures,
    }
    return {
        target: {(dataset, run) for dataset, run in wanted if dataset in settings.datasets}
        for target, wanted in runs.items()
    }


def run_folders(settings: Settings, target: str) -> list[Path]:
    """The folders of all runs and seeds of a target, sorted.

    Raises:
        UserError: there is no such target.
    """
    targets = target_runs(settings)
    runs = sorted(targets[known(target, targets, "target")])
    return [run_folder(settings, dataset, run, seed) for dataset, run in runs for seed in settings.seeds]


def run_folder(settings: Settings, dataset: str, run: str, seed: int) -> Path:
    return Path(settings.results, "runs", dataset, run, f"seed{seed}")


def _of_tables(settings: Settings, tables: Iterable[str]) -> set[Run]:
    """(data set, run) of every row of these tables that has a run."""
    return {(row.dataset, row.run) for table in tables for row in settings.tables[table].rows if row.run}
