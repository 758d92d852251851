"""Every figure of the report: Figure 3 as in the paper, and what the results show beyond it."""

from __future__ import annotations

from pathlib import Path

from omniad.config import Settings
from omniad.reporting.complexity import Resolutions
from omniad.reporting.figures.class_plots import draw_curves, draw_histograms
from omniad.reporting.figures.cost_plots import draw_accuracy, draw_resolution
from omniad.reporting.figures.drawing import Drawn
from omniad.reporting.figures.qualitative import draw_qualitative
from omniad.reporting.figures.training_plots import draw_training
from omniad.reporting.tables import Table
from omniad.runs.finished import FinishedRun


def draw_figures(
    settings: Settings, tables: list[Table], runs: list[FinishedRun], resolutions: Resolutions, folder: Path
) -> list[Drawn]:
    """Draw everything that there is something for, each as PNG and PDF in `folder`."""
    return [
        *(draw_qualitative(settings, name, runs, folder) for name in settings.figures),
        draw_accuracy(tables, folder),
        draw_resolution(resolutions, folder),
        draw_training(tables, runs, folder),
        *(draw(run, folder) for run in main_runs(settings, runs) for draw in (draw_histograms, draw_curves)),
    ]


def main_runs(settings: Settings, runs: list[FinishedRun]) -> list[FinishedRun]:
    """Of each data set the run that figures show in detail, first seed: that of Figure 3, or `default`."""
    name = next((figure.run for figure in settings.figures.values()), "default")
    first: dict[str, FinishedRun] = {}
    for run in runs:
        if run.run == name:
            first.setdefault(run.dataset, run)
    return list(first.values())
