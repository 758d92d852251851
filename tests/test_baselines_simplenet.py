"""SimpleNet against literal formulas and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from omniad.config import ModelSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.baselines.simplenet import Discriminator, SimpleNet, hinge_loss, patch_features
from omniad.models.complexity import complexity

SMALL = ModelSettings(method="simplenet", encoder="wide_resnet50_2", encoder_width=8)
FULL = ModelSettings(method="simplenet", encoder="wide_resnet50_2")


def test_patch_features_in_the_order_of_their_description():
    """Unfold, resize the coarser map's patches, then average down: literally, one patch at a time."""
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 4, 6, 6), torch.randn(2, 6, 3, 3)
    width = 12
    columns = [F.unfold(level, 3, padding=1).unflatten(2, level.shape[2:]) for level in (fine, coarse)]
    columns[1] = F.interpolate(columns[1], size=(6, 6), mode="bilinear", align_corners=False)  # (B, 54, 6, 6)
    expected = []
    for image in range(2):
        for i in range(6):
            for j in range(6):
                pooled = [averages(level[image, :, i, j].double().numpy(), width) for level in columns]
                expected.append(averages(np.concatenate(pooled), width))
    np.testing.assert_allclose(patch_features([fine, coarse], width), expected, rtol=1e-4, atol=1e-5)


def averages(values: np.ndarray, count: int) -> np.ndarray:
    """Means over `count` nearly equal parts: from floor(i n / count) to ceil((i + 1) n / count)."""
    n = len(values)
    return np.array([values[i * n // count : -(-(i + 1) * n // count)].mean() for i in range(count)])


def test_hinge_loss():
    real, noisy = torch.tensor([[0.7], [0.2], [-1.0]]), torch.tensor([[-0.9], [0.1], [-0.5]])
    assert hinge_loss(real, noisy).item() == pytest.approx((0 + 0.3 + 1.5) / 3 + (0 + 0.6 + 0) / 3)


def test_loss_adds_noise_to_projected_features():
    model = SimpleNet(SMALL).train()
    features = [torch.randn(2, 64, 8, 8), torch.randn(2, 128, 4, 4)]
    torch.manual_seed(5)
    found = model.loss(features, TrainingSettings(), 0.0)
    torch.manual_seed(5)
    real = model.projection(patch_features(features, 192))
    noise = torch.randn(128, 192)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    both = model.discriminator(torch.cat([real, real + 0.015 * noise]))
    torch.testing.assert_close(found, hinge_loss(both[:128], both[128:]))


def test_map_is_the_negated_output(monkeypatch):
    model = build_model(SMALL).eval()
    scores = torch.randn(1, 4, 4)
    monkeypatch.setattr(model, "score", lambda _: scores)
    maps = model.anomaly_maps([], 20)
    # Not aligned: an input pixel covers 5 output pixels, and its centre is the third of them.
    np.testing.assert_allclose(maps[0, 2::5, 2::5], scores[0], rtol=1e-6)
    assert torch.equal(model.image_scores(maps), maps.amax(dim=(1, 2)))


def test_scores_are_high_where_the_discriminator_is_low():
    model = SimpleNet(SMALL).eval()
    features = [torch.randn(1, 64, 4, 4), torch.randn(1, 128, 2, 2)]
    outputs = model.discriminator(model.projection(patch_features(features, 192)))
    torch.testing.assert_close(model.score(features)[0], -outputs.view(4, 4))


def test_counts_are_the_published_ones():
    """72.8 M with the whole encoder; 16.1 G to its layer 3 and on 32x32 patches."""
    parameters, macs = complexity(FULL)
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 1)) == (72.82, 16.1)
    assert parameters - trainable() == 68_883_240  # torchvision's count of WideResNet-50-2
    with torch.device("meta"):
        model = build_model(FULL)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable()


def trainable() -> int:
    return (1536 * 1536 + 1536) + (1536 * 1024 + 1024) + 2 * 1024 + 1024


def test_two_optimizers_with_their_own_constants():
    projection, discriminator = build_model(SMALL).make_optimizers(TrainingSettings(learning_rate=1e-4))
    assert isinstance(projection, torch.optim.AdamW)
    assert not isinstance(discriminator, torch.optim.AdamW)
    assert (projection.defaults["lr"], projection.defaults["weight_decay"]) == (1e-4, 0.01)
    assert (discriminator.defaults["lr"], discriminator.defaults["weight_decay"]) == (2e-4, 1e-5)
    assert [type(m).__name__ for m in Discriminator(6)] == ["Linear", "BatchNorm1d", "LeakyReLU", "Linear"]
