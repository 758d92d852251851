"""Slow, plain implementations of the metrics, to test the fast ones against. Nothing here is shared with the package.

`exact_metrics` uses scikit-learn and SciPy, or sorts every pixel. `published_metrics` follows the description of the
ADer toolbox's settings word by word: threshold by threshold, on boolean masks.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

EIGHT_CONNECTED = np.zeros((3, 3, 3), int)  # within an image, never from one to the next
EIGHT_CONNECTED[1] = 1


def exact_metrics(maps: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The seven metrics; both kinds of image and of pixel must occur."""
    maps, masks, labels = maps + 0, masks > 0, labels > 0
    images = maps.max(axis=(1, 2))
    return {
        "I-AUROC": float(roc_auc_score(labels, images)),
        "I-AP": float(average_precision_score(labels, images)),
        "I-F1max": f1_over_every_threshold(images, labels),
        "P-AUROC": float(roc_auc_score(masks.ravel(), maps.ravel())),
        "P-AP": float(average_precision_score(masks.ravel(), maps.ravel())),
        "P-F1max": f1_over_every_threshold(maps.ravel(), masks.ravel()),
        "AU-PRO": sorted_au_pro(maps, masks),
    }


def published_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The seven metrics as the toolbox computes them; NaN where its arithmetic gives none."""
    masks = masks > 0
    labels, images = masks.max(axis=(1, 2)), maps.max(axis=(1, 2))
    precisions, recalls, _ = precision_recall_curve(labels, images)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precisions * recalls / (precisions + recalls)
    return {
        "I-AUROC": float(roc_auc_score(labels, images)),
        "I-AP": float(average_precision_score(labels, images)),
        "I-F1max": float(np.max(f1[np.isfinite(f1)])),
        "P-AUROC": float(roc_auc_score(masks.ravel(), maps.ravel())),
        "P-AP": float(average_precision_score(masks.ravel(), maps.ravel())),
        "P-F1max": grid_f1(maps, masks),
        "AU-PRO": grid_au_pro(maps, masks),
    }


def label_regions(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """Regions of all masks, numbered from 1, and how many there are."""
    found = np.empty(masks.shape, int)
    number = ndimage.label(masks, EIGHT_CONNECTED, output=found)
    return found, int(number)  # pyright: ignore[reportArgumentType]


def f1_over_every_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """Predict `score >= t` for every score t that occurs."""
    best = 0.0
    for threshold in np.unique(scores):
        predicted = scores >= threshold
        hits = np.count_nonzero(predicted & positive)
        best = max(best, 2 * hits / (np.count_nonzero(predicted) + np.count_nonzero(positive)))
    return float(best)


def sorted_au_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """Sort all pixels, keep one point a distinct score, integrate by trapezoids with a point put in at the limit."""
    found, regions = label_regions(masks)
    area_of = np.bincount(found.ravel())
    gains = np.where(masks, 1 / area_of[found], 0)
    order = np.argsort(-maps.ravel(), kind="stable")
    scores, gains, normal = maps.ravel()[order], gains.ravel()[order] / regions, ~masks.ravel()[order]
    last_of_score = np.append(scores[1:] != scores[:-1], True)
    rate = np.append(0, np.cumsum(normal)[last_of_score] / normal.sum())
    overlap = np.append(0, np.cumsum(gains)[last_of_score])
    area = 0.0
    for x0, x1, y0, y1 in zip(rate[:-1], rate[1:], overlap[:-1], overlap[1:], strict=True):
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return float(area + (y0 + y1) / 2 * (limit - x0)) / limit
        area += (y0 + y1) / 2 * (x1 - x0)
    raise AssertionError("the curve ends at rate 1, beyond the limit")


def grid_f1(maps: np.ndarray, masks: np.ndarray, eps: float = 1e-8) -> float:
    """21 thresholds on the maps min-max-normalised over the class."""
    if maps.max() == maps.min():
        return math.nan
    normalised = (maps - maps.min()) / (maps.max() - maps.min())
    values = []
    for threshold in np.arange(0, 1 + 1e-3, 0.05):
        predicted = normalised > threshold
        both = np.logical_and(masks, predicted).sum()
        precision, recall = both / (predicted.sum() + eps), both / (masks.sum() + eps)
        values.append(2 * precision * recall / (precision + recall + eps))
    return float(max(values))


def grid_au_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """100 thresholds from the lowest score; points below the limit, their rates rescaled to [0, 1]."""
    lowest, highest = maps.min(), maps.max()
    if lowest == highest:
        return math.nan
    found, regions = label_regions(masks)
    rates, overlaps = [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / 100):
        predicted = maps > threshold
        overlaps.append(np.mean(ndimage.mean(predicted, found, range(1, regions + 1))))
        rates.append(np.logical_and(~masks, predicted).sum() / (~masks).sum())
    kept = np.array(rates) < limit
    rates, overlaps = np.array(rates)[kept], np.array(overlaps)[kept]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 where all rates are equal
        rates = (rates - rates.min()) / (rates.max() - rates.min()) if len(rates) else rates
    return float(auc(rates, overlaps)) if len(rates) > 1 and np.isfinite(rates).all() else math.nan
