"""RLR against literal formulas and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from omniad.config import ModelSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.baselines.attention import neighbourhood
from omniad.models.baselines.rlr import ReferenceLayer, sine_positions
from omniad.models.complexity import complexity

SMALL = ModelSettings(method="rlr", encoder="tf_efficientnet_b6", encoder_width=8, jitter=4.0)
FULL = ModelSettings(method="rlr", encoder="tf_efficientnet_b6", jitter=4.0)


def test_loss_map_and_score_are_their_formulas(monkeypatch):
    model = build_model(SMALL).eval()
    generator = torch.Generator().manual_seed(0)
    features, outputs = ([torch.randn(2, c, s, s, generator=generator) for c, s in [(3, 8), (5, 4)]] for _ in range(2))
    monkeypatch.setattr(model, "reconstruct", lambda _: outputs)
    loss, corners = 0.0, []
    for x, y in zip(features, outputs, strict=True):
        x, y = x.double().numpy(), y.double().numpy()
        cosine = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))  # (B, h, w)
        loss += ((x - y) ** 2).mean() + (1 - cosine).mean()
        corners.append((((x - y) ** 2).mean(1) + 1 - cosine)[:, 0, 0])
    assert model.loss(features, TrainingSettings(), 0.0).item() == pytest.approx(loss, rel=1e-6)
    maps = model.anomaly_maps(features, 64)
    np.testing.assert_allclose(maps[:, 0, 0], np.mean(corners, axis=0), rtol=1e-5)
    smoothed = [gaussian_filter(one, 1.0, mode="reflect", truncate=4.0).max() for one in maps.numpy()]  # 4 at 256
    np.testing.assert_allclose(model.image_scores(maps), smoothed, rtol=1e-5)


def test_a_layer_is_its_formula():
    torch.manual_seed(0)
    layer = ReferenceLayer(16)
    x, reference = torch.randn(2, 36, 16), torch.randn(2, 36, 16)
    near = neighbourhood((6, 6), 3, torch.device("cpu"))

    def attend(module, values, allowed):
        q, k, v = module.query(x), module.key(reference), module.value(values)
        heads = []
        for part in zip(*(z.split(2, dim=-1) for z in (q, k, v)), strict=True):
            weights = part[0] @ part[1].transpose(1, 2) / 2**0.5
            heads.append(weights.masked_fill(~allowed, -torch.inf).softmax(-1) @ part[2])
        return module.output(torch.cat(heads, dim=-1))

    y = layer.norm1(2 * attend(layer.cross, reference, near) + attend(layer.self, x, ~near))
    torch.testing.assert_close(layer(x, reference, near), layer.norm2(y + layer.feed_forward(y)))


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = sine_positions((3, 5), 8, torch.device("cpu"))[0, 2 * 5 + 4]  # row 2, column 4
    expected = [f(p * w) for p in (2, 4) for w in (1, 10000**-0.5) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_counts():
    """Counted: the encoder's stem and first five stages, and both transformers with all their products."""
    parameters, _ = complexity(FULL)
    with torch.device("meta"):
        model = build_model(FULL)
    trained = 0
    for channels, side, d in [(72, 32, 256), (200, 16, 512)]:
        layer = 8 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d
        trained += channels * side**2 + (channels * d + d) + (d * channels + channels) + 4 * layer
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert parameters == trained + sum(p.numel() for p in model.encoder.parameters())


def test_plain_adam():
    (optimizer,) = build_model(SMALL).make_optimizers(TrainingSettings(learning_rate=1e-4, weight_decay=0.0))
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0.0)
