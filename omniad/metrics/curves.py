"""The formulas: areas, precision, F1 and PRO from counts. Values are fractions; undefined cases are handled elsewhere.

Rows go from the highest score down. At row j, with P positives and N negatives:
TP_j = hits, FP_j = false alarms with the row's score or a higher one; FP'_j = false alarms with a higher one.
Conventions, and who differs:

- Equal scores are one threshold. A tie of an anomalous and a normal item counts half in AUROC (scikit-learn's
  `roc_auc_score`), and draws one slanted piece of the PRO curve (MVTec's evaluation script).
- AP is the step-wise sum (scikit-learn's `average_precision_score`). Tools that integrate the precision-recall curve by
  trapezoids (adeval, anomalib's AUPR) give other, usually higher or lower, values: that curve isn't linear between
  points.
- F1max tries every distinct score. Tools with a fixed grid of thresholds give lower values.
- AU-PRO (Bergmann et al., IJCV 2021, section 5.1): per-region overlap, averaged over regions, against the
  false-positive rate over all normal pixels, to the rate 0.3, divided by 0.3. The curve is interpolated at the limit,
  as in MVTec's script; tools that stop at the last point before the limit and divide by its rate (anomalib before
  2.3) give other values. Regions are 8-connected (scipy with a 3x3 structure of ones in MVTec's script,
  skimage.measure.label's default).
"""

from __future__ import annotations

import numpy as np

from omniad.metrics.counts import ClassPixels, Counts, PixelCounts

FPR_LIMIT = 0.3
EPSILON = 1e-8
CURVE_POINTS = 512


def auroc(counts: Counts) -> float:
    """P(anomalous score > normal score) + P(equal) / 2 = 1 - sum_j (TP_j - TP_{j-1}) (FP_j + FP'_j) / (2 P N)."""
    lost = np.sum(counts.gained * (counts.false_alarms + counts.false_above)) / 2
    return 1 - float(lost) / counts.positives / counts.negatives


def average_precision(counts: Counts) -> float:
    """Sum over rows of the gain in recall times the precision: sum_j (TP_j - TP_{j-1}) / P * TP_j / (TP_j + FP_j)."""
    found = np.maximum(counts.hits + counts.false_alarms, 1)  # 0 at a threshold above every score, where none is gained
    return float(np.sum(counts.gained * (counts.hits / found))) / counts.positives


def f1_max(counts: Counts) -> float:
    """Largest 2 TP / (2 TP + FP + FN) = 2 TP_j / (P + TP_j + FP_j). Scores of normal items alone never are the best."""
    return 2 * float(np.max(counts.hits / (counts.positives + (counts.hits + counts.false_alarms))))


def au_pro(counts: PixelCounts) -> float:
    """Area under the PRO curve up to FPR_LIMIT, divided by FPR_LIMIT.

    From row j - 1 to row j the curve first runs level, at overlap_{j-1}, to FP'_j / N (normal pixels in between),
    then straight to (FP_j / N, overlap_j) (pixels of the row's own score, normal and anomalous). It starts at (0, 0)
    and ends at (1, 1). So what a row adds to the overlap counts from the middle of its straight piece to the limit.
    """
    limit = FPR_LIMIT * counts.negatives
    rows = int(np.searchsorted(counts.false_above, limit, "right"))  # those that begin before the limit
    start, stop = counts.false_above[:rows], counts.false_alarms[:rows]
    gained = np.diff(counts.overlap[:rows], prepend=0)
    area = float(np.sum(gained * (limit - (start + stop) / 2)))
    if rows and stop[-1] > limit:  # the last piece passes the limit: give back the triangle beyond it
        area += float(gained[-1] * (stop[-1] - limit) ** 2 / (2 * (stop[-1] - start[-1])))
    return min(max(area / limit, 0.0), 1.0)


def published_f1_max(counts: PixelCounts, thresholds: np.ndarray) -> float:
    """Largest F1 above the grid's thresholds, with the ADer toolbox's eps in all three denominators."""
    hits, false_alarms, _ = counts.above(thresholds)
    precision = hits / (hits + false_alarms + EPSILON)
    recall = hits / (counts.positives + EPSILON)
    return float(np.max(2 * precision * recall / (precision + recall + EPSILON)))


def published_au_pro(counts: PixelCounts, thresholds: np.ndarray) -> float:
    """Trapezoids through the grid's points with FPR < 0.3, whose rates are rescaled to [0, 1]; NaN if they are equal.

    Without interpolation at the limit and with the rescaling, the value depends on where the grid falls: one outlier
    pixel stretches the grid and can move it from .59 to .005.
    """
    _, false_alarms, overlap = counts.above(thresholds)
    rate = false_alarms / counts.negatives
    rate, overlap = rate[rate < FPR_LIMIT], overlap[rate < FPR_LIMIT]
    if not rate.size or rate.min() == rate.max():
        return float("nan")
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return float(np.sum((rate[:-1] - rate[1:]) * (overlap[:-1] + overlap[1:]))) / 2  # rates fall as thresholds rise


def f1_thresholds(pixels: ClassPixels) -> np.ndarray:
    """For t = 0, .05, ... 1 the key of the largest score s with (s - lowest) / (highest - lowest) <= t.

    Scores above it are those whose min-max-normalised value is `> t`. Found by bisection among all floats of the
    maps' type, so that rounding decides as it does where every score is normalised.
    """
    levels = np.arange(0.0, 1.001, 0.05)
    ends = pixels.keys_of(np.array([pixels.lowest, pixels.highest])).astype(np.int64).view(np.uint64)
    lowest, span = ends[:1], ends[1:] - ends[:1]  # arrays, because these may wrap around
    below, above = np.zeros(levels.size, np.uint64), np.full(levels.size, span)  # distances from `lowest`
    while (below < above).any():
        middle = below + (above - below + np.uint64(1)) // np.uint64(2)
        keys = (lowest + middle).view(np.int64).astype(pixels.bits)
        normalised = (pixels.scores_of(keys) - pixels.lowest) / (pixels.highest - pixels.lowest)
        fits = normalised.astype(np.float64) <= levels
        below, above = np.where(fits, middle, below), np.where(fits, above, middle - (below < above))
    return (lowest + below).view(np.int64).astype(pixels.bits)


def au_pro_thresholds(pixels: ClassPixels) -> np.ndarray:
    """Keys of arange(lowest, highest, (highest - lowest) / 100), computed in the maps' own type."""
    step = (pixels.highest - pixels.lowest) / 100
    return pixels.keys_of(np.arange(pixels.lowest, pixels.highest, step))


def roc_curve(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and true-positive rate, at most CURVE_POINTS points."""
    return thin(*_from_origin(counts.false_alarms / counts.negatives, counts.hits / counts.positives))


def pr_curve(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision, at most CURVE_POINTS points."""
    rows = counts.hits > 0
    hits = counts.hits[rows]
    return thin(hits / counts.positives, hits / (hits + counts.false_alarms[rows]))


def pro_curve(counts: PixelCounts) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and mean overlap of the regions, at most CURVE_POINTS points."""
    return thin(*_from_origin(counts.false_alarms / counts.negatives, counts.overlap))


def thin(x: np.ndarray, y: np.ndarray, most: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` of a curve's points, first and last among them, evenly spaced along its length."""
    if x.size <= most:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    picked = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)))
    picked[-1] = x.size - 1
    return x[picked], y[picked]


def _from_origin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve with its first point, (0, 0), and its last, (1, 1)."""
    return np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
