"""Anomaly maps against SciPy and a plain NumPy reading of their description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from omniad.models.anomaly_map import cosine_maps, smooth


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (3, 5), (1, 40), (8, 8)])
@pytest.mark.parametrize("sigma", [0.5, 1.3, 4.0, 10.0])
def test_smoothing_equals_scipy(shape, sigma):
    """Also where the filter, int(4 sigma + .5) to each side, is wider than the map: SciPy reflects again and again."""
    maps = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    expected = [gaussian_filter(one, sigma, mode="reflect", truncate=4.0) for one in maps]
    got = smooth(torch.from_numpy(maps), sigma)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_no_smoothing():
    maps = torch.rand(2, 8, 8)
    assert torch.equal(smooth(maps, 0), maps)


def resize_with_aligned_corners(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear: output i lies at input i * (n - 1) / (size - 1)."""
    for axis in (0, 1):
        positions = np.arange(size) * (image.shape[axis] - 1) / (size - 1)
        knots = np.arange(image.shape[axis])
        image = np.apply_along_axis(lambda line, at=positions, k=knots: np.interp(at, k, line), axis, image)
    return image


def test_map_is_the_sum_of_cosine_distances_over_nine():
    rng = np.random.default_rng(1)
    shapes = [(2, 6, 16, 16), (2, 5, 8, 8), (2, 7, 4, 4)]
    features, reconstructions = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    expected = np.zeros((2, 32, 32))
    for f, r in zip(features, reconstructions, strict=True):
        cosine = (f * r).sum(axis=1) / np.linalg.norm(f, axis=1) / np.linalg.norm(r, axis=1)
        expected += [resize_with_aligned_corners(one, 32) for one in 1 - cosine]
    expected = [gaussian_filter(one, 2.0) for one in expected / 9]
    tensors = [[torch.from_numpy(one).float() for one in scales] for scales in (features, reconstructions)]
    got = smooth(cosine_maps(*tensors, size=32), 2.0)
    assert got.shape == (2, 32, 32)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_equal_features_give_zero_and_opposite_ones_two_thirds():
    features = [torch.rand(1, 3, side, side) + 0.1 for side in (8, 4, 2)]
    assert cosine_maps(features, features, 16).abs().max() < 1e-6
    opposite = cosine_maps(features, [-one for one in features], 16)
    torch.testing.assert_close(opposite, torch.full((1, 16, 16), 2 / 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_smooths_like_scipy_even_where_reduced_precision_is_allowed():
    maps = np.random.default_rng(2).random((2, 64, 64)).astype(np.float32)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        got = smooth(torch.from_numpy(maps).cuda(), 4.0).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    np.testing.assert_allclose(got, [gaussian_filter(one, 4.0) for one in maps], rtol=0, atol=1e-6)
