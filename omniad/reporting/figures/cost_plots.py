"""Accuracy against cost (Tables IV, VI and VII as plots), and cost against the size of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from omniad.reporting.cells import COST_HEADS
from omniad.reporting.complexity import COUNTS, Resolutions
from omniad.reporting.figures.drawing import FONT, Drawn, label, new_figure, plain, save_figure, style
from omniad.reporting.tables import PRINTED_VARIANT, Table

ACCURACY_TITLE = "Accuracy against cost"
ACCURACY_CAPTION = (
    "The tables with parameters and FLOPs as plots. Open circles are printed; filled squares were measured here (bar: "
    "± the seeds' standard deviation). The cost is that of the variant `released`, the one printed."
)
MINIATURE_CAPTION = (
    "The tables with parameters and FLOPs as plots, printed numbers only. A miniature's own accuracies are left out, "
    "because they come from far smaller models on other images."
)
RESOLUTION_TITLE = "Cost against resolution"
RESOLUTION_CAPTION = (
    "Multiply-adds of the whole model for one square image, both axes logarithmic. With learnable tokens they grow in "
    "proportion to the number of pixels, with plain self-attention almost with its square."
)
NAMES = {"learnable": "learnable tokens", "plain": "plain self-attention"}


def draw_accuracy(tables: list[Table], folder: Path) -> Drawn:
    """A row of panels a table: accuracy against parameters and against FLOPs."""
    shown = [table for table in tables if table.has_costs]
    if not shown:
        return Drawn(ACCURACY_TITLE, ACCURACY_CAPTION, None, "")
    costs = list(COUNTS)
    figure, axes = new_figure(len(shown), len(costs), 4.2, 2.5)
    for row, table in enumerate(shown):
        for column, cost in enumerate(costs):
            _accuracy(axes[row * len(costs) + column], table, cost)
    caption = MINIATURE_CAPTION if any(table.miniature for table in shown) else ACCURACY_CAPTION
    return Drawn(ACCURACY_TITLE, caption, save_figure(figure, folder / "accuracy_cost"), _join(shown))


def draw_resolution(resolutions: Resolutions, folder: Path) -> Drawn:
    """FLOPs against the image's side, one line a kind of attention."""
    if not resolutions:
        return Drawn(RESOLUTION_TITLE, RESOLUTION_CAPTION, None, "")
    figure, (axes,) = new_figure(1, 1, 5.2, 3.4)
    for number, (attention, counted) in enumerate(resolutions.items()):
        sizes = sorted(counted)
        giga = [counted[size] / 1e9 for size in sizes]
        axes.plot(
            sizes, giga, label=plain(NAMES.get(attention, attention)), linewidth=1.5, markersize=5, **style(number)
        )
        for place, offset, side in ((0, (6, -11), "left"), (-1, (0, 6), "right")):  # both beside the rising line
            where = {"xytext": offset, "textcoords": "offset points", "ha": side}
            axes.annotate(f"{giga[place]:,.0f} G", (sizes[place], giga[place]), fontsize=FONT - 1, **where)
    label(axes, "", "side of the image, pixels", "FLOPs (G)")
    axes.set(xscale="log", yscale="log")
    axes.margins(x=0.08, y=0.12)
    axes.set_xticks(sorted({size for counted in resolutions.values() for size in counted}))
    _plain_numbers(axes)
    axes.legend(fontsize=FONT, frameon=False)
    return Drawn(RESOLUTION_TITLE, RESOLUTION_CAPTION, save_figure(figure, folder / "resolution"), "256 to 1024 pixels")


def _accuracy(axes: Axes, table: Table, cost: str) -> None:
    metric = next(column for column in table.columns if column not in COUNTS)
    printed, ours = [], []
    for row in table.rows:
        name = row.label.split(" (")[0]
        if cost in row.printed and metric in row.printed:
            printed.append((row.printed[cost].value, row.printed[metric].value, name))
        measured = row.ours[0].measured(metric) if row.ours else None
        counted = row.counted.get(PRINTED_VARIANT, {})
        if measured and cost in counted and not row.ours[0].miniature and not math.isnan(measured.mean):
            ours.append((counted[cost], measured.mean, measured.std or 0.0))
    if printed:
        x, y, names = zip(*printed, strict=True)
        axes.plot(x, y, "o--", color="#555555", markerfacecolor="white", markersize=6, linewidth=1, label="paper")
        for name, point, above in zip(names, zip(x, y, strict=True), _labels_above(x, y), strict=True):
            where = {"xytext": (0, 7 if above else -14), "textcoords": "offset points", "ha": "center"}
            axes.annotate(plain(name), point, fontsize=FONT - 2, **where)
    if ours:
        x, y, std = zip(*ours, strict=True)
        axes.errorbar(x, y, yerr=std, fmt="s-", color="black", markersize=5, linewidth=1, capsize=2, label="ours")
    wide = printed and max(point[0] for point in printed) > 4 * min(point[0] for point in printed)
    axes.margins(x=0.15, y=0.25)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        _plain_numbers(axes)
    label(axes, table.heading, COST_HEADS[cost], f"{metric} (%)")
    if printed or ours:
        axes.legend(fontsize=FONT - 2, frameon=False, loc="best")


def _labels_above(x: Sequence[float], y: Sequence[float]) -> list[bool]:
    """Whether a name is above its point: away from the nearest neighbour, by turns where the two are level."""
    found = []
    for place, (here, height) in enumerate(zip(x, y, strict=True)):
        others = [other for other in range(len(x)) if other != place]
        level = y[min(others, key=lambda other: abs(x[other] - here))] if others else height
        found.append(height > level if height != level else place % 2 == 0)
    return found


def _plain_numbers(axes: Axes) -> None:
    """A logarithmic axis with its numbers written out, not as powers."""
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _join(tables: list[Table]) -> str:
    return ", ".join(table.label for table in tables)
