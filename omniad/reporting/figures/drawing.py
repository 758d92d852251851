"""What all figures share: their style, and saving them to files.

They are read in grey as well: lines differ in dashes and markers, areas in lightness and hatching. The same figure
gives the same bytes: no time, no version and no name of a program is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from omniad.files import atomic_write

DPI = 120
FONT = 9  # points
LONGEST, LONGEST_CLASS = 100, 30  # characters of a name
# Dark to light, with dashes and markers that differ as well.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "#0060a8", "linestyle": "--", "marker": "s"},
    {"color": "#c04a00", "linestyle": "-.", "marker": "^"},
    {"color": "#6a8f2f", "linestyle": ":", "marker": "D"},
    {"color": "#9a9a9a", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#7b3f98", "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": "#00838f", "linestyle": (0, (1, 3)), "marker": "X"},
    {"color": "#8c5a2b", "linestyle": (0, (3, 1, 1, 1)), "marker": "*"},
    {"color": "#d0709a", "linestyle": (0, (6, 1, 2, 1)), "marker": "h"},
    {"color": "#4a4a00", "linestyle": (0, (2, 1)), "marker": "<"},
)


@dataclass(frozen=True)
class Drawn:
    """One figure, drawn or not."""

    title: str
    caption: str
    file: Path | None  # its PNG, with a PDF beside it; None: there was nothing to draw
    shown: str  # what it shows, in a few words
    run: str = ""  # of the configuration that it needs
    missing: tuple[str, ...] = ()  # data sets whose run is not there
    problem: str = ""  # why there is no file although there is something to draw


def style(number: int) -> dict[str, Any]:
    return STYLES[number % len(STYLES)]


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels of `width` x `height` inches each, and its panels row by row."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.tick_params(labelsize=FONT - 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def plain(text: str) -> str:
    """A name as it is drawn: what is between dollar signs is no formula, and its length is one that fits."""
    printable = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text[:LONGEST])
    return printable.replace("$", r"\$")


def plain_class(name: str) -> str:
    """A class's name as it is drawn: where there are many panels, so it is cut early."""
    return plain(name[:LONGEST_CLASS].replace("_", " "))


def label(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    axes.set_title(plain(title), fontsize=FONT, loc="left")
    axes.set_xlabel(plain(x), fontsize=FONT)
    axes.set_ylabel(plain(y), fontsize=FONT)


def save_figure(figure: Figure, file: Path) -> Path:
    """Write `file`.png and `file`.pdf; the PNG's path."""
    no_traces = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
    for ending, metadata in no_traces.items():
        with atomic_write(file.with_suffix(f".{ending}"), "wb") as handle:
            figure.savefig(handle, format=ending, metadata=metadata)
    return file.with_suffix(".png")
