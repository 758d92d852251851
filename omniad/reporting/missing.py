"""What has not been run yet, and the command that runs it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from omniad.config import Settings, load_settings
from omniad.reporting.figures.drawing import Drawn
from omniad.reporting.tables import Row, Table


def command(settings: Settings, target: str, datasets: Iterable[str] = ()) -> str:
    """The workflow's command for a target, under this configuration.

    Args:
        datasets: that the target needs; those that the configuration leaves out are added to the command.
    """
    words = ["snakemake --cores all", target]
    more = [dataset for dataset in dict.fromkeys(datasets) if dataset not in settings.datasets]
    if more:
        words.append(f"--config datasets='[{','.join([*settings.datasets, *more])}]'")
    if settings != load_settings():
        words.append(f"--configfile {PurePath(settings.results, 'config.yaml').as_posix()}")
    return " ".join(words)


def missing(settings: Settings, table: Table) -> list[str]:
    """A Markdown line for each kind of thing that a table lacks, each with its command."""
    missed: dict[str, list[Row]] = {}  # target -> what it would add
    for row in table.rows:
        if row.ours and row.ours[0].missing:
            missed.setdefault(row.target, []).append(row)
    lines = [
        f"Not run: {_named(rows)}. To run it: `{command(settings, target, (row.dataset for row in rows))}`"
        for target, rows in missed.items()
    ]
    if table.has_costs and any(row.ours and not row.counted for row in table.rows):
        lines.append(f"Not counted: parameters and FLOPs. To count them: `{command(settings, 'complexity')}`")
    shown = {ours.run for row in table.rows for ours in row.ours}
    for extra in settings.tables[table.name].extra_runs:
        if extra not in shown:
            target = command(settings, f"{table.name}_{extra}")
            lines.append(f"`{extra}` was not run; it gets its own lines. To run it: `{target}`")
    return lines


def _named(rows: Iterable[Row]) -> str:
    """The runs that lack the same seeds on the same data sets together: "`a`, `b` on MVTec-AD, VisA (seed 0)"."""
    places: dict[str, dict[str, list[str]]] = {}  # run -> seeds -> data sets
    for row in rows:
        seeds = row.ours[0].missing
        text = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        places.setdefault(row.ours[0].run, {}).setdefault(text, []).append(row.dataset_title)
    alike: dict[str, list[str]] = {}  # where -> runs
    for run, missed in places.items():
        where = " and ".join(f"{', '.join(titles)} ({seeds})" for seeds, titles in missed.items())
        alike.setdefault(where, []).append(f"`{run}`")
    return "; ".join(f"{', '.join(runs)} on {where}" for where, runs in alike.items())


def missing_figure(settings: Settings, figure: Drawn) -> str:
    """A sentence about what a figure lacks, with the command; empty when it has all."""
    if figure.problem:
        return figure.problem
    if figure.missing:
        titles = ", ".join(settings.sources[dataset].title for dataset in figure.missing)
        return f"Not run: `{figure.run}` on {titles}. To run it: `{command(settings, 'figures', figure.missing)}`"
    return "" if figure.file else f"Nothing to draw yet. To fill it: `{command(settings, 'all')}`"
