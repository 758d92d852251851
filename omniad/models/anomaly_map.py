"""From features and their reconstructions to anomaly maps, and the smoothing of maps.

The paper compares both by cosine distance at three scales. As the released code does it: the three distance maps are
resized bilinearly (corners aligned) to the image, added, divided by 9 and smoothed by a Gaussian; an image's score is
the maximum of its smoothed map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def cosine_maps(features: Sequence[Tensor], reconstructions: Sequence[Tensor], size: int) -> Tensor:
    """Anomaly maps before smoothing (B, size, size), float32, in [0, 2/3] for three scales; higher is more anomalous.

    Args:
        features: of the encoder, one tensor (B, C_k, H_k, W_k) a scale.
        reconstructions: of the decoder, the same shapes.
        size: side of the maps, pixels.
    """
    total = torch.zeros(features[0].shape[0], size, size, device=features[0].device)  # (B, S, S)
    for feature, reconstruction in zip(features, reconstructions, strict=True):
        distance = 1 - F.cosine_similarity(feature.float(), reconstruction.float(), dim=1)  # (B, H_k, W_k)
        resized = F.interpolate(distance[:, None], size=(size, size), mode="bilinear", align_corners=True)
        total += resized[:, 0]
    # The released code divides by (number of scales) * (sum of their weights), 3 * 3; no metric but a threshold sees
    # it.
    return total / len(features) ** 2


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of maps (B, H, W), equal to scipy.ndimage.gaussian_filter (reflect, truncate 4).

    `sigma` is in pixels; 0 leaves the maps as they are.

    Each axis is one product with a matrix, which holds scipy's own treatment of the borders, however small the map.
    In float64, so that a GPU's reduced-precision products can't change the result.
    """
    if not sigma:
        return maps
    rows, columns = (torch.from_numpy(_smoothing_matrix(side, sigma)).to(maps.device) for side in maps.shape[1:])
    return (rows @ maps.double() @ columns.T).to(maps.dtype)


@lru_cache(maxsize=8)
def _smoothing_matrix(side: int, sigma: float) -> np.ndarray:
    """(side, side) float64: its column j is what the filter makes of a unit impulse at j."""
    # Kept as an array: a tensor made in inference mode, or in an export, could not be used outside it.
    return gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=4.0)
