"""The metrics of one class in both definitions, from one table of counts, with a reason for each undefined one."""

from __future__ import annotations

import math

import numpy as np

from omniad.metrics.counts import ClassPixels, Counts, PixelCounts, count_scores
from omniad.metrics.curves import (
    FPR_LIMIT,
    au_pro,
    au_pro_thresholds,
    auroc,
    average_precision,
    f1_max,
    f1_thresholds,
    pr_curve,
    pro_curve,
    published_au_pro,
    published_f1_max,
    roc_curve,
)
from omniad.metrics.definitions import SEVEN, ClassResult, Definition, Measured


def measure(pixels: ClassPixels, labels: np.ndarray | None, scores: np.ndarray | None, curves: bool) -> ClassResult:
    """All metrics, and the curves if wanted. labels and scores (N,): None stands for the masks' and the maps' own."""
    grid_error = _grid_error(pixels)
    empty = np.empty(0, pixels.bits)
    f1_grid, pro_grid = (empty, empty) if grid_error else (f1_thresholds(pixels), au_pro_thresholds(pixels))
    counts = pixels.count(np.concatenate([f1_grid, pro_grid]))
    image_scores = pixels.image_scores if scores is None else scores
    by_mask = count_scores(image_scores, pixels.image_anomalous)
    by_label = by_mask if labels is None else count_scores(image_scores, labels)
    exact = _image_metrics(by_label) | _pixel_metrics(counts)
    published = _image_metrics(by_mask) | {name: exact[name] for name in ("P-AUROC", "P-AP")}
    published |= _published_metrics(counts, f1_grid, pro_grid, grid_error)
    metrics: dict[Definition, Measured] = {"exact": _with_mean(exact), "published": _with_mean(published)}
    return ClassResult(metrics, image_scores, _curves(by_label, counts) if curves else {})


def _image_metrics(counts: Counts) -> dict[str, float | str]:
    """I-* values, or the reason why one is undefined."""
    return _ranking_metrics(counts, "I", "image")


def _pixel_metrics(counts: PixelCounts) -> dict[str, float | str]:
    return _ranking_metrics(counts, "P", "pixel") | {"AU-PRO": _one_sided(counts, "pixel") or au_pro(counts)}


def _ranking_metrics(counts: Counts, letter: str, item: str) -> dict[str, float | str]:
    no_positive = "" if counts.positives else f"no anomalous {item}"
    return {
        f"{letter}-AUROC": _one_sided(counts, item) or auroc(counts),
        f"{letter}-AP": no_positive or average_precision(counts),
        f"{letter}-F1max": no_positive or f1_max(counts),
    }


def _published_metrics(
    counts: PixelCounts, f1_grid: np.ndarray, pro_grid: np.ndarray, grid_error: str
) -> dict[str, float | str]:
    no_positive = "" if counts.positives else "no anomalous pixel"
    value = _one_sided(counts, "pixel") or grid_error or published_au_pro(counts, pro_grid)
    if isinstance(value, float) and math.isnan(value):
        value = (
            f"all thresholds with a false-positive rate below {FPR_LIMIT} have the same rate, so it can't be rescaled"
        )
    return {"P-F1max": no_positive or grid_error or published_f1_max(counts, f1_grid), "AU-PRO": value}


def _one_sided(counts: Counts, item: str) -> str:
    """Why a metric that needs both kinds is undefined; empty where it is not."""
    missing = [name for name, number in (("anomalous", counts.positives), ("normal", counts.negatives)) if not number]
    return " and ".join(f"no {name} {item}" for name in missing)


def _grid_error(pixels: ClassPixels) -> str:
    """Why no grid of thresholds can be laid between the lowest and the highest score; empty where one can."""
    with np.errstate(over="ignore"):
        step = (pixels.highest - pixels.lowest) / 100
    if pixels.lowest == pixels.highest:
        return "the maps are constant, so there is no range for thresholds"
    return "" if 0 < step < np.inf else "the range of the scores is too small or too large for a grid of thresholds"


def _with_mean(outcome: dict[str, float | str]) -> Measured:
    """Values and reasons apart, and mAD, the mean of the seven, undefined as soon as one of them is."""
    reasons = {name: value for name, value in outcome.items() if isinstance(value, str)}
    values = {name: math.nan if isinstance(value := outcome[name], str) else value for name in SEVEN}
    if reasons:
        reasons["mAD"] = f"undefined: {', '.join(name for name in SEVEN if name in reasons)}"
    return Measured(values | {"mAD": sum(values.values()) / len(SEVEN)}, reasons)


def _curves(images: Counts, pixels: PixelCounts) -> dict[str, np.ndarray]:
    """Those curves that are defined."""
    curves = {}
    for name, counts in (("image", images), ("pixel", pixels)):
        if counts.positives:
            curves[f"{name}_pr"] = np.stack(pr_curve(counts))
        if counts.positives and counts.negatives:
            curves[f"{name}_roc"] = np.stack(roc_curve(counts))
    if pixels.positives and pixels.negatives:
        curves["pro"] = np.stack(pro_curve(pixels))
    return curves
