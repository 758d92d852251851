"""RD4AD against literal formulas and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omniad.config import ModelSettings, TrainingSettings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines.rd4ad import RD4AD, flat_cosine_loss
from omniad.models.complexity import complexity

FULL = ModelSettings(method="rd4ad", encoder="wide_resnet50_2")
SMALL = ModelSettings(method="rd4ad", encoder="wide_resnet50_2", encoder_width=8)


def maps(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, s, s, generator=generator) for c, s in [(4, 8), (8, 4), (16, 2)]]


def test_loss_is_one_cosine_an_image_and_scale():
    features, outputs = maps(0), maps(1)
    expected = 0.0
    for a, b in zip(features, outputs, strict=True):
        cosines = [
            np.dot(u.ravel(), v.ravel()) / (np.linalg.norm(u) * np.linalg.norm(v))
            for u, v in zip(a.double().numpy(), b.double().numpy(), strict=True)
        ]
        expected += np.mean([1 - cosine for cosine in cosines])
    assert flat_cosine_loss(features, outputs).item() == pytest.approx(expected, rel=1e-6)
    assert flat_cosine_loss(features, features).item() == pytest.approx(0, abs=1e-6)


def test_map_adds_the_distances_at_every_position(monkeypatch):
    model = build_model(SMALL).eval()
    features, outputs = maps(0), maps(1)
    monkeypatch.setattr(model, "reconstruct", lambda _: outputs)
    found = model.anomaly_maps(features, 15)
    corner, centre = 0.0, 0.0  # with aligned corners, corners stay as they are
    for a, b in zip(features, outputs, strict=True):
        a, b = a.double().numpy(), b.double().numpy()
        distance = 1 - (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))  # (B, H, W)
        corner = corner + distance[:, 0, -1]
        half = distance.shape[1] // 2
        centre = centre + distance[:, half - 1 : half + 1, half - 1 : half + 1].mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, 0, -1], corner / 9, rtol=1e-5)
    np.testing.assert_allclose(found[:, 7, 7], centre / 9, rtol=1e-5)
    assert torch.equal(model.image_scores(found), found.flatten(1).max(dim=1).values)


def test_counts_are_the_published_ones():
    """80.6 M and 28.4 G; 24.86 M of them are the teacher's."""
    parameters, macs = complexity(FULL)
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (80.61, 28.43)
    with torch.device("meta"):
        model = build_model(FULL)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert round(frozen / 1e6, 2) == 24.86
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable()


def trainable() -> int:
    """The embedding's and the decoder's parameters, layer by layer; a BatchNorm has two a channel."""

    def bottleneck(inputs: int, inner: int, out: int, kernel: int, shortcut: int = 0) -> int:
        norms = 2 * (2 * inner + out) + (2 * out if shortcut else 0)
        return inputs * inner + kernel**2 * inner**2 + inner * out + shortcut**2 * inputs * out + norms

    downs = 9 * (256 * 512 + 512 * 1024 + 512 * 1024) + 2 * (512 + 1024 + 1024)
    embedding = downs + bottleneck(3072, 512, 2048, 3, shortcut=1) + 2 * bottleneck(2048, 512, 2048, 3)
    decoder = 0
    for inputs, out, depth in [(2048, 1024, 3), (1024, 512, 4), (512, 256, 6)]:
        inner = out // 2
        decoder += bottleneck(inputs, inner, out, 2, shortcut=2) + (depth - 1) * bottleneck(out, inner, out, 3)
    return embedding + decoder


def test_optimizer_is_the_authors():
    model = build_model(SMALL)
    (optimizer,) = model.make_optimizers(TrainingSettings(learning_rate=0.005, weight_decay=0.0))
    assert isinstance(optimizer, torch.optim.Adam)
    assert not isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.005, (0.5, 0.999))


def test_another_kind_of_encoder_is_refused():
    assert isinstance(build_model(SMALL), RD4AD)
    with pytest.raises(UserError, match="wide_resnet50_2"):
        RD4AD(SMALL.model_copy(update={"encoder": "efficientnet_b4"}))
