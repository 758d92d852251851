"""Draw an anomaly map over its image."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import binary_erosion

from omniad.detector.detector import Detector, Prediction, resize_map

COLORS = "inferno"  # its lightness grows from end to end, so it reads the same in grey
STRONGEST = 0.85  # opacity of the most anomalous places
OUTLINE = np.uint8(255)


def overlay(detector: Detector, prediction: Prediction) -> Image.Image:
    """The image in grey, coloured where its map is high; places above the threshold are outlined in white.

    What good images' maps show (`Detector.expected`) is subtracted first, as for the score.

    With a threshold of `omniad fit` all images share one range of colours: none at the usual level of good images, the
    middle at the threshold. Without one, each image's colours span its own map, whatever its score.
    """
    heat = _heat(prediction.map, detector.expected, prediction.view.shape[:2])
    if detector.threshold is not None and detector.typical is not None and detector.typical < detector.threshold:
        low, high = detector.typical, 2 * detector.threshold - detector.typical
    else:
        low, high = float(heat.min()), float(heat.max())
    share = np.clip((heat - low) / (high - low), 0, 1) if high > low else np.zeros_like(heat)
    level = np.rint(255 * share).astype(np.uint8)  # (h, w): of 256 colours
    opacity = STRONGEST * np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    colors = opacity * 255 * matplotlib.colormaps[COLORS](np.arange(256))[:, :3].astype(np.float32)  # (256, 3)
    grey = prediction.view.mean(axis=2, dtype=np.float32, keepdims=True)
    pixels = np.rint(grey * (1 - opacity[level]) + colors[level]).astype(np.uint8)  # (h, w, 3)
    if detector.threshold is not None:
        above = heat > detector.threshold
        pixels[above & ~binary_erosion(above, iterations=2)] = OUTLINE
    return Image.fromarray(pixels)


def _heat(anomaly_map: np.ndarray, expected: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a map shows beyond what is expected, at the view's size: bilinearly, or where it shrinks its peaks."""
    excess = anomaly_map - expected if expected.any() else anomaly_map
    if excess.shape[0] <= size[0]:
        return resize_map(excess, size)
    return F.adaptive_max_pool2d(torch.from_numpy(excess)[None], size)[0].numpy()
