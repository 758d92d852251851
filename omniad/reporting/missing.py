"""What was not run yet, and the command that runs it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from omniad.config import Settings, load_settings
from omniad.reporting.drawing import Drawn
from omniad.reporting.tables import Table


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
    runs: dict[str, dict[str, str]] = {}  # target -> what it would add -> its data set
    for row in table.rows:
        if row.ours and row.ours[0].missing:
            seeds = ", ".join(map(str, row.ours[0].missing))
            plural = "s" if len(row.ours[0].missing) > 1 else ""
            what = f"`{row.ours[0].run}` on {row.dataset_title} (seed{plural} {seeds})"
            runs.setdefault(row.target, {})[what] = row.dataset
    lines = [
        f"Not run: {', '.join(names)}. To run it: `{command(settings, target, names.values())}`"
        for target, names in runs.items()
    ]
    if table.has_costs and any(row.ours and not row.counted for row in table.rows):
        lines.append(f"Not counted: parameters and FLOPs. To count them: `{command(settings, 'complexity')}`")
    shown = {ours.run for row in table.rows for ours in row.ours}
    for extra in settings.tables[table.name].extra_runs:
        if extra not in shown:
            target = command(settings, f"{table.name}_{extra}")
            lines.append(f"`{extra}` was not run; it gets lines of its own. To run it: `{target}`")
    return lines


def missing_figure(settings: Settings, figure: Drawn) -> str:
    """A sentence about what a figure lacks, with the command; empty when it has all."""
    if figure.missing:
        titles = ", ".join(settings.sources[dataset].title for dataset in figure.missing)
        return f"Not run: `{figure.run}` on {titles}. To run it: `{command(settings, 'figures', figure.missing)}`"
    return "" if figure.file else f"Nothing to draw yet. To fill it: `{command(settings, 'all')}`"
