"""Figure 3: for several classes an image, its ground truth, the anomaly map, and the map over the image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from omniad.config import Settings
from omniad.reporting.figures.drawing import DPI, Drawn, plain, plain_class, save_figure
from omniad.runs.artifacts import Example, example_files, read_examples
from omniad.runs.finished import FinishedRun

ROWS = ("Image", "Ground truth", "Anomaly map", "Overlay")
COLORS = "inferno"  # its lightness grows from end to end, so it reads the same in grey
CELL_INCHES = 1.35
CAPTION = (
    "The first test image with a defect of each class, whether the result is good or not: the image, its ground "
    "truth, the anomaly map, and the map over the image with the outline of the ground truth. Maps go from dark (the "
    "lowest value among the class's kept examples) to bright (the highest)."
)


@dataclass(frozen=True)
class Shown:
    """One test image of a class with its map, and the range that its class's maps are drawn in."""

    title: str
    example: Example
    low: float
    high: float


def draw_qualitative(settings: Settings, name: str, runs: list[FinishedRun], folder: Path) -> Drawn:
    """Draw a figure of the configuration (Figure 3) from what its run left in each of its data sets."""
    entry = settings.figures[name]
    groups: dict[str, list[Shown]] = {}
    missing = []
    for dataset in entry.datasets:
        run = next((run for run in runs if (run.dataset, run.run) == (dataset, entry.run)), None)
        examples = pick_examples(run.folder, entry.classes) if run else []
        if run and examples:
            groups[run.title] = examples
        else:
            missing.append(dataset)
    number = name.removeprefix("figure")
    label = f"Figure {number}" if number.isdecimal() else name
    shown = "; ".join(f"{title}: {', '.join(example.title for example in group)}" for title, group in groups.items())
    file = save_figure(qualitative_figure(groups), folder / name) if groups else None
    return Drawn(f"{label}: {entry.title}", f"{CAPTION}\n{shown}.", file, shown, entry.run, tuple(missing))


def pick_examples(folder: Path, classes: int) -> list[Shown]:
    """One anomalous example each of up to `classes` classes, spread evenly over the classes in alphabetical order."""
    found = [shown for file in example_files(folder) if (shown := pick_example(file)) is not None]
    picked = np.linspace(0, len(found) - 1, min(classes, len(found))).round().astype(int)
    return [found[index] for index in picked]


def pick_example(file: Path) -> Shown | None:
    """The class's image that evaluation kept for this figure; None when the class has no image with a defect.

    Raises:
        UserError: the file is not one that `omniad evaluate` wrote.
    """
    examples = read_examples(file)
    chosen = next((example for example in examples if example.kind == "figure" and example.mask.any()), None)
    if chosen is None:
        return None
    low, high = min(example.map.min() for example in examples), max(example.map.max() for example in examples)
    return Shown(file.stem, chosen, float(low), float(high))


def qualitative_figure(groups: dict[str, list[Shown]]) -> Figure:
    """A column a class, grouped by data set; a row each for image, ground truth, map and overlay."""
    examples = [example for group in groups.values() for example in group]
    figure = Figure(figsize=(CELL_INCHES * len(examples) + 0.3, CELL_INCHES * len(ROWS) + 0.45), dpi=DPI)
    FigureCanvasAgg(figure)
    left, top = 0.3 / figure.get_figwidth(), 1 - 0.45 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(ROWS), len(examples), left=left, right=0.998, bottom=0.005, top=top, wspace=0.04, hspace=0.04
    )
    for column, example in enumerate(examples):
        cells = [figure.add_subplot(grid[row, column]) for row in range(len(ROWS))]
        for axes in cells:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        _show(cells, example)
        cells[0].set_title(plain_class(example.title), fontsize=9, pad=3)
        if column == 0:
            for axes, label in zip(cells, ROWS, strict=True):
                axes.set_ylabel(label, fontsize=9, labelpad=3)
    _write_group_titles(figure, groups, left)
    return figure


def _show(cells: Iterable[Axes], shown: Shown) -> None:
    image, truth, heat, overlay = cells
    example, scale = shown.example, Normalize(shown.low, shown.high)
    image.imshow(example.image)
    truth.imshow(example.mask, cmap="gray", vmin=0, vmax=1)
    heat.imshow(example.map, cmap=COLORS, norm=scale)
    overlay.imshow(example.image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    # The more anomalous, the less of the image is left: normal areas stay as they are.
    overlay.imshow(example.map, cmap=COLORS, norm=scale, alpha=0.85 * scale(example.map))
    if not example.mask.all():
        # Dark below light: the outline stands out on any ground, in grey too.
        for color, width in (("black", 2.2), ("white", 1.0)):
            overlay.contour(example.mask, levels=[0.5], colors=color, linewidths=width)


def _write_group_titles(figure: Figure, groups: dict[str, list[Shown]], left: float) -> None:
    """The data set's name above its columns, and a line that spans them."""
    width = (0.998 - left) / sum(map(len, groups.values()))
    y = 1 - 0.22 / figure.get_figheight()
    start = left
    for title, group in groups.items():
        end = start + len(group) * width
        figure.text((start + end) / 2, y, plain(title), ha="center", va="bottom", fontsize=10, fontweight="bold")
        figure.add_artist(Line2D([start + 0.05 * width, end - 0.05 * width], [y, y], color="black", linewidth=0.8))
        start = end
