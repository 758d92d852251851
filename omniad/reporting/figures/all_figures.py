"""Every figure of the report: Figure 3 as in the paper, and what the results show beyond it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omniad.config import Settings
from omniad.files import in_one_line
from omniad.reporting.complexity import Resolutions
from omniad.reporting.figures.class_plots import draw_curves, draw_histograms
from omniad.reporting.figures.cost_plots import ACCURACY_TITLE, RESOLUTION_TITLE, draw_accuracy, draw_resolution
from omniad.reporting.figures.drawing import Drawn
from omniad.reporting.figures.qualitative import draw_qualitative
from omniad.reporting.figures.training_plots import TITLE as TRAINING_TITLE
from omniad.reporting.figures.training_plots import draw_training
from omniad.reporting.tables import Table
from omniad.runs.finished import FinishedRun

log = logging.getLogger(__name__)


def draw_figures(
    settings: Settings, tables: list[Table], runs: list[FinishedRun], resolutions: Resolutions, folder: Path
) -> list[Drawn]:
    """Draw everything that there is something for, each as PNG and PDF in `folder`."""
    of_runs = [(run, draw) for run in main_runs(settings, runs) for draw in (draw_histograms, draw_curves)]
    return [
        *(
            _drawn(figure.title, draw_qualitative, settings, name, runs, folder)
            for name, figure in settings.figures.items()
        ),
        _drawn(ACCURACY_TITLE, draw_accuracy, tables, folder),
        _drawn(RESOLUTION_TITLE, draw_resolution, resolutions, folder),
        _drawn(TRAINING_TITLE, draw_training, tables, runs, folder),
        *(_drawn(f"{run.title}: {run.run}", draw, run, folder) for run, draw in of_runs),
    ]


def _drawn(title: str, draw: Callable[..., Drawn], *arguments: Any) -> Drawn:
    """What was drawn; a figure that can't be drawn is reported, and does not stop the others."""
    try:
        return draw(*arguments)
    except Exception as error:  # a run may be a stranger's: matplotlib raises anything of odd numbers
        log.warning("%s: left out: %s", title, in_one_line(error))
        return Drawn(title, "", None, "", problem=f"Left out: {in_one_line(error)}")


def main_runs(settings: Settings, runs: list[FinishedRun]) -> list[FinishedRun]:
    """Of each data set the run that figures show in detail, first seed: that of Figure 3, or `default`."""
    name = next((figure.run for figure in settings.figures.values()), "default")
    first: dict[str, FinishedRun] = {}
    for run in runs:
        if run.run == name:
            first.setdefault(run.dataset, run)
    return list(first.values())
