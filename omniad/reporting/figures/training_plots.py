"""Training curves: the loss, one panel per table and data set, one line per run; a band covers all seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from omniad.reporting.figures.drawing import FONT, Drawn, label, new_figure, plain, save_figure, style
from omniad.reporting.tables import Table
from omniad.runs.artifacts import read_history
from omniad.runs.finished import FinishedRun

History = tuple[np.ndarray, np.ndarray]  # epochs, losses

TITLE = "Training curves"
CAPTION = (
    "Loss (mean over an epoch's batches, logarithmic) of the runs behind each table: a line is the seeds' mean, "
    "a band goes from the lowest to the highest seed. Losses of different methods are not comparable. Tables "
    "that only repeat runs of the panels before them are left out."
)
CROWDED = 5  # lines: a legend of more is below its panel
WIDE = 30  # from the lowest to the highest loss: an axis beyond that has numbers at powers of ten alone


def draw_training(tables: list[Table], runs: list[FinishedRun], folder: Path) -> Drawn:
    """Draw the histories of the runs that the tables show."""
    panels = _panels(tables, runs)
    if not panels:
        return Drawn(TITLE, CAPTION, None, "")
    columns, most = min(4, len(panels)), max(map(len, panels.values()))
    height = 2.5 + (0.09 * most if most > CROWDED else 0.0)
    figure, axes = new_figure(-(-len(panels) // columns), columns, 3.1, height)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel, (title, lines) in zip(axes, panels.items(), strict=False):
        for number, (name, seeds) in enumerate(lines.items()):
            _draw_line(panel, name, seeds, number)
        label(panel, title, "epoch", "loss")
        panel.set_yscale("log")
        low, high = panel.dataLim.intervaly
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < WIDE * low else (1,)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "ncols": 2} if len(lines) > CROWDED else {}
        panel.legend(fontsize=FONT - 2, frameon=False, **below)
    return Drawn(TITLE, CAPTION, save_figure(figure, folder / "training"), ", ".join(panels))


def _panels(tables: list[Table], runs: list[FinishedRun]) -> dict[str, dict[str, list[History]]]:
    """Title of a panel -> name of a line -> the histories of its seeds."""
    panels: dict[str, dict[str, list[History]]] = {}
    shown: set[tuple[str, str]] = set()
    for table in tables:
        for dataset in dict.fromkeys(row.dataset for row in table.rows):
            rows = [row for row in table.rows if row.dataset == dataset]
            lines = {
                (dataset, ours.run): (row.label if ours is row.ours[0] else f"{row.label}, {ours.run}", histories)
                for row in rows
                for ours in row.ours
                if (histories := _histories(runs, dataset, ours.run))
            }
            if lines.keys() - shown:
                title = table.label.partition(" (")[0]
                panels[f"{title}, {rows[0].dataset_title}" if len(table.datasets) > 1 else title] = dict(lines.values())
            shown |= lines.keys()
    return panels


def _histories(runs: list[FinishedRun], dataset: str, run: str) -> list[History]:
    """Of each seed with at least one epoch."""
    found = [read_history(one.folder) for one in runs if (one.dataset, one.run) == (dataset, run)]
    return [history for history in found if history is not None and len(history[0])]


def _draw_line(panel, name: str, seeds: list[History], number: int) -> None:
    """The mean over the epochs that all seeds have."""
    length = min(len(epochs) for epochs, _ in seeds)
    epochs = seeds[0][0][:length]
    losses = np.stack([loss[:length] for _, loss in seeds])  # (seeds, epochs)
    look = style(number)
    every = max(1, length // 6)
    panel.plot(epochs, losses.mean(axis=0), label=plain(name), linewidth=1.3, markersize=3, markevery=every, **look)
    if len(seeds) > 1:
        panel.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)
