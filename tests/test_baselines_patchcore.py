"""PatchCore's patch features against the authors' steps, one by one; its map and its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance import AllOf, images
from scipy.spatial.distance import cdist

from omniad.config import ModelSettings
from omniad.models import build_model
from omniad.models.baselines.patchcore import PatchCore


def model_of(**changes) -> PatchCore:
    torch.manual_seed(0)
    settings = {"method": "patchcore", "encoder": "wide_resnet50_2", "encoder_width": 8, "memory": 50, **changes}
    model = build_model(ModelSettings(**settings)).eval()
    assert isinstance(model, PatchCore)
    return model


def literal_patches(features: list[torch.Tensor], width: int) -> torch.Tensor:
    """Unfold, average to `width`, resize the coarser, stack, average to `width`: as the authors go about it."""
    pooled = []
    for level in features:
        batch, channels, height, columns = level.shape
        patches = F.unfold(level, 3, padding=1).transpose(1, 2)  # (B, h w, 9 c), a channel's nine side by side
        assert patches.shape == (batch, height * columns, 9 * channels)
        pooled.append(F.adaptive_avg_pool1d(patches, width).view(batch, height, columns, width))
    coarse = F.interpolate(pooled[1].permute(0, 3, 1, 2), size=pooled[0].shape[1:3], mode="bilinear")
    both = torch.cat([pooled[0], coarse.permute(0, 2, 3, 1)], dim=3).flatten(1, 2)
    return F.adaptive_avg_pool1d(both, width)


@pytest.mark.parametrize("encoder", ["wide_resnet50_2", "resnet18"])
def test_patch_features_are_the_authors(encoder):
    model = model_of(encoder=encoder)
    features = model.encode(images())
    patches = model.patches(features)
    expected = literal_patches(features, 2 * features[0].shape[1])
    torch.testing.assert_close(patches, expected, rtol=1e-5, atol=1e-5)


def test_a_full_size_feature_has_1024_values():
    with torch.device("meta"):
        model = build_model(ModelSettings(method="patchcore", encoder="wide_resnet50_2"))
    assert isinstance(model, PatchCore)
    assert model.memory.entries.shape == (20_000, 1024)


def test_the_map_is_the_squared_distance_to_the_memory():
    model = model_of()
    features = model.encode(images())
    with torch.no_grad():
        for _ in model.prepare(AllOf([features]), {}):
            pass
    patches = model.patches(features).flatten(0, 1).double()
    assert (cdist(model.memory.entries, patches).min(axis=1) < 1e-6).all()  # all of them are training patches
    squared = cdist(patches, model.memory.entries, "sqeuclidean").min(axis=1).reshape(4, 12, 12)
    assert np.allclose(model.distances(features).numpy(), squared, rtol=1e-4, atol=1e-6)
    expected = F.interpolate(torch.from_numpy(squared)[:, None], size=(96, 96), mode="bilinear")[:, 0]
    torch.testing.assert_close(model.anomaly_maps(features, 96).double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(model.image_scores(expected), expected.amax(dim=(1, 2)))


def test_other_encoders_channels_are_kept():
    model = model_of(encoder="efficientnet_lite0", encoder_width=64, standardise=True)
    features = model.encode(images())
    assert model.patches(features).shape == (4, 144, 40 + 112)
    with torch.no_grad():
        for _ in model.prepare(AllOf([features]), {}):
            pass
    coarse = model.standardise(features)[1]
    torch.testing.assert_close(coarse.mean(dim=(0, 2, 3)), torch.zeros(112), rtol=0, atol=1e-4)
