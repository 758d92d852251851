"""A run's results on each class: histograms of its image scores, and its ROC, precision-recall and PRO curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omniad.metrics.curves import FPR_LIMIT
from omniad.reporting.figures.drawing import FONT, Drawn, label, new_figure, plain_class, save_figure
from omniad.runs.artifacts import read_curves, read_scores
from omniad.runs.finished import FinishedRun

BINS = 24
# curve -> title, x, y
PANELS = {
    "image_roc": ("Image ROC", "false-positive rate", "true-positive rate"),
    "image_pr": ("Image precision-recall", "recall", "precision"),
    "pixel_roc": ("Pixel ROC", "false-positive rate", "true-positive rate"),
    "pixel_pr": ("Pixel precision-recall", "recall", "precision"),
    "pro": ("PRO", "false-positive rate", "per-region overlap"),
}
GRID = np.linspace(0, 1, 501)


def draw_histograms(run: FinishedRun, folder: Path) -> Drawn:
    """A panel a class: the scores of its normal and its anomalous test images."""
    title = f"Image scores, {run.title}"
    caption = (
        f"`{run.run}`, seed {run.seed}: scores of the test images of each class, normal images light, anomalous "
        "ones hatched. No threshold separates the two where they overlap."
    )
    classes = read_scores(run.folder)
    if not classes:
        return Drawn(title, caption, None, "")
    rows = -(-len(classes) // 5)
    figure, panels = new_figure(rows, -(-len(classes) // rows), 2.3, 1.7)
    for panel in panels[len(classes) :]:
        panel.set_visible(False)
    for panel, (name, (labels, scores)) in zip(panels, classes.items(), strict=False):
        edges = np.histogram_bin_edges(scores, BINS).tolist()
        panel.hist(scores[labels == 0], edges, color="#c8c8c8", edgecolor="#8a8a8a", linewidth=0.5, label="normal")
        panel.hist(
            scores[labels > 0],
            edges,
            histtype="step",
            hatch="/////",
            color="black",
            linewidth=1.0,
            label="anomalous",
        )
        panel.set_title(plain_class(name), fontsize=FONT, loc="left")
        panel.locator_params(axis="both", nbins=4)
    panels[0].legend(fontsize=FONT - 3, frameon=False)
    figure.supxlabel("image score", fontsize=FONT)
    figure.supylabel("images", fontsize=FONT)
    return Drawn(title, caption, save_figure(figure, folder / f"scores_{run.dataset}"), f"{len(classes)} classes")


def draw_curves(run: FinishedRun, folder: Path) -> Drawn:
    """A panel a curve: every class thin, the worst class dashed with its name, the mean over classes bold."""
    title = f"ROC, precision-recall and PRO curves, {run.title}"
    caption = (
        f"`{run.run}`, seed {run.seed}: a thin line per class (dashed for the smallest area), their mean in bold. "
        f"AU-PRO is the area within the shaded part, up to a false-positive rate of {FPR_LIMIT}."
    )
    curves = read_curves(run.folder)
    shown = [name for name in PANELS if curves and name in curves]
    if not curves or not shown:
        return Drawn(title, caption, None, "")
    figure, panels = new_figure(1, len(shown), 2.7, 2.7)
    for panel, curve in zip(panels, shown, strict=True):
        lines = {name: np.interp(GRID, *xy) for name, xy in curves[curve].items()}
        worst = min(lines, key=lambda name: lines[name].mean())
        for name, (x, y) in curves[curve].items():
            if name != worst:
                panel.plot(x, y, color="#9a9a9a", linewidth=0.7)
        panel.plot(
            *curves[curve][worst],
            "--",
            color="#c04a00",
            linewidth=1.2,
            label=f"worst: {plain_class(worst)}",
        )
        panel.plot(GRID, np.mean(list(lines.values()), axis=0), color="black", linewidth=2, label="mean")
        if curve == "pro":
            panel.axvspan(0, FPR_LIMIT, color="#eeeeee", zorder=0)
        label(panel, *PANELS[curve])
        panel.set(xlim=(0, 1), ylim=(0, 1.02))
        panel.legend(fontsize=FONT - 2, frameon=False, loc="best" if curve.endswith("pr") else "lower right")
    return Drawn(title, caption, save_figure(figure, folder / f"curves_{run.dataset}"), f"{len(lines)} classes")
