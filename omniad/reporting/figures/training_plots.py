"""Training curves: the loss, one panel a table, one line a row's run; a band from the lowest to the highest seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from omniad.reporting.figures.drawing import FONT, Drawn, label, new_figure, plain, save_figure, style
from omniad.reporting.tables import Table
from omniad.runs.artifacts import read_history
from omniad.runs.finished import FinishedRun

TITLE = "Training curves"
CAPTION = (
    "Loss (mean over an epoch's batches, logarithmic) of the runs behind each table: a line is the seeds' mean, "
    "a band goes from the lowest to the highest seed."
)


def draw_training(tables: list[Table], runs: list[FinishedRun], folder: Path) -> Drawn:
    """Draw the histories of the runs that the tables show."""
    panels = {table.label: lines for table in tables if (lines := _lines(table, runs))}
    if not panels:
        return Drawn(TITLE, CAPTION, None, "")
    columns = min(4, len(panels))
    figure, axes = new_figure(-(-len(panels) // columns), columns, 3.1, 2.5)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel, (title, lines) in zip(axes, panels.items(), strict=False):
        for number, (name, seeds) in enumerate(lines.items()):
            _draw_line(panel, name, seeds, number)
        label(panel, title, "epoch", "loss")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.legend(fontsize=FONT - 2, frameon=False)
    return Drawn(TITLE, CAPTION, save_figure(figure, folder / "training"), ", ".join(panels))


def _lines(table: Table, runs: list[FinishedRun]) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Name of a line -> the histories of its seeds."""
    lines: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    several = len(table.datasets) > 1
    for row in table.rows:
        for ours in row.ours:
            found = [run.folder for run in runs if (run.dataset, run.run) == (row.dataset, ours.run)]
            histories = [history for history in map(read_history, found) if history is not None and len(history[0])]
            extra = "" if ours is row.ours[0] else f", {ours.run}"
            name = (f"{row.dataset_title}, {row.label}" if several else row.label) + extra
            if histories:
                lines[name] = histories
    return lines


def _draw_line(panel, name: str, seeds: list[tuple[np.ndarray, np.ndarray]], number: int) -> None:
    """The mean over the epochs that all seeds have."""
    length = min(len(epochs) for epochs, _ in seeds)
    epochs = seeds[0][0][:length]
    losses = np.stack([loss[:length] for _, loss in seeds])  # (seeds, epochs)
    look = style(number)
    every = max(1, length // 6)
    panel.plot(epochs, losses.mean(axis=0), label=plain(name), linewidth=1.3, markersize=3, markevery=every, **look)
    if len(seeds) > 1:
        panel.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)
