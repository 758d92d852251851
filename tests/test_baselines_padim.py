"""PaDiM against numpy's covariance and scipy's Mahalanobis distance."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from conformance import AllOf
from scipy.spatial.distance import mahalanobis

from omniad.config import ModelSettings
from omniad.models import build_model
from omniad.models.baselines.padim import GRID, PaDiM


def model_of(seed: int = 0) -> PaDiM:
    torch.manual_seed(seed)
    model = build_model(ModelSettings(method="padim", encoder="resnet18", encoder_width=8)).eval()
    assert isinstance(model, PaDiM)
    return model


def some(images: int, width: int, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(images)
    return (
        torch.randn(images, width, GRID, GRID, generator=generator) * torch.arange(1, width + 1)[:, None, None] + offset
    )


def test_distances_are_those_of_each_positions_gaussian():
    model = model_of()
    width = len(model.chosen)
    training, tested = (
        some(20, width, 1000.0),
        some(3, width, 1000.0),
    )  # a large mean, which sums of squares suffer from
    with torch.no_grad():
        shares = [share for share, _ in model.prepare(AllOf([[part] for part in training.split(6)]), {})]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    distances = model.distances([tested])
    for row, column in ((0, 0), (5, 40), (63, 63)):
        x = training[:, :, row, column].numpy().astype(np.float64)
        inverse = np.linalg.inv(np.cov(x, rowvar=False) + 0.01 * np.eye(width))
        for image in range(3):
            expected = mahalanobis(tested[image, :, row, column].numpy(), x.mean(axis=0), inverse)
            np.testing.assert_allclose(distances[image, row, column].item(), expected, rtol=1e-3)


def test_channels_are_drawn_once_and_maps_are_resized_to_the_finest():
    model, other = model_of(0), model_of(1)
    assert len(set(model.chosen.tolist())) == len(model.chosen) == 12
    assert model.chosen.tolist() != other.chosen.tolist()
    images = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    maps = model.encoder(images)
    (encoded,) = model.encode(images)
    assert encoded.shape == (2, 12, 64, 64)
    for position, channel in enumerate(model.chosen.tolist()):
        level, inside = next((k, channel - 8 * (2**k - 1)) for k in (2, 1, 0) if channel >= 8 * (2**k - 1))
        expected = maps[level][:, inside].repeat_interleave(2**level, dim=1).repeat_interleave(2**level, dim=2)
        assert torch.equal(encoded[:, position], expected)


def test_full_size_draws_100_of_448_channels():
    with torch.device("meta"):
        model = build_model(ModelSettings(method="padim", encoder="resnet18"))
    assert model.whitening.shape == (4096, 100, 100)


def test_the_map_is_the_resized_distance():
    model = model_of()
    features = [some(2, len(model.chosen))]
    expected = F.interpolate(model.distances(features)[:, None], size=(256, 256), mode="bilinear")[:, 0]
    assert torch.equal(model.anomaly_maps(features, 256), expected)
