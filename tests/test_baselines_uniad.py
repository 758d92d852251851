"""UniAD and its parts against literal formulas and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.baselines.attention import Attention, fit_grid, neighbourhood
from omniad.models.baselines.uniad import UniAD
from omniad.models.complexity import complexity

SMALL = ModelSettings(method="uniad", encoder="tf_efficientnet_b4", encoder_width=8)
FULL = ModelSettings(method="uniad", encoder="tf_efficientnet_b4")


@pytest.mark.parametrize(
    ("size", "window", "reach"), [((16, 16), 7, 3), ((5, 6), 3, 1), ((6, 6), 7, 2), ((4, 4), 7, 1)]
)
def test_neighbourhood(size, window, reach):
    near = neighbourhood(size, window, torch.device("cpu"))
    places = [(row, column) for row in range(size[0]) for column in range(size[1])]
    expected = [[max(abs(a - c), abs(b - d)) <= reach for c, d in places] for a, b in places]
    assert near.tolist() == expected
    assert not near.all(dim=1).any()  # something is left outside


def test_attention_equals_pytorchs():
    torch.manual_seed(0)
    mine, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    projections = (mine.query, mine.key, mine.value)
    theirs.in_proj_weight.data = torch.cat([projection.weight.data for projection in projections])
    theirs.in_proj_bias.data = torch.cat([projection.bias.data for projection in projections])
    theirs.out_proj.load_state_dict(mine.output.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    allowed = torch.rand(5, 7) > 0.4
    allowed[:, 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~allowed)
    torch.testing.assert_close(mine(query, key, value, allowed), expected)


def test_a_grid_that_fits_is_left_alone():
    grid = torch.randn(1, 3, 4, 4)
    assert torch.equal(fit_grid(grid, (4, 4))[0, 6], grid[0, :, 1, 2])
    corners = fit_grid(grid, (7, 7))[0]
    torch.testing.assert_close(corners[[0, 6, 42, 48]], grid[0][:, [0, 0, -1, -1], [0, -1, 0, -1]].T)
    torch.testing.assert_close(corners[24], grid[0, :, 1:3, 1:3].mean(dim=(1, 2)))


def test_loss_map_and_score_are_their_formulas(monkeypatch):
    model = build_model(SMALL).eval()
    generator = torch.Generator().manual_seed(0)
    features, output = (torch.randn(2, 6, 4, 4, generator=generator) for _ in range(2))
    monkeypatch.setattr(model, "reconstruct", lambda _: [output])
    difference = (features - output).double().numpy()
    loss = model.loss([features], TrainingSettings(), 0.0)
    assert loss.item() == pytest.approx(np.mean(difference**2), rel=1e-6)
    maps = model.anomaly_maps([features], 64)
    distance = np.sqrt((difference**2).sum(1))  # (B, 4, 4)
    np.testing.assert_allclose(maps[:, 0, 0], distance[:, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(maps[:, 21, 42], distance[:, 1, 2], rtol=1e-5)  # 63 / 3 pixels from token to token
    means = [
        [maps[b, i : i + 16, j : j + 16].double().mean().item() for i in range(49) for j in range(49)] for b in range(2)
    ]
    np.testing.assert_allclose(model.image_scores(maps), np.max(means, axis=1), rtol=1e-5)


def test_positions_are_the_columns_then_the_rows_embedding():
    model = UniAD(SMALL)
    positions = model._positions((16, 16))[0]  # (N, D)
    torch.testing.assert_close(positions[5 * 16 + 9], torch.cat([model.columns[9], model.rows[5]]))


def test_first_decoder_layer_sees_the_memory_twice_and_queries_are_each_layers_own():
    model: Any = build_model(SMALL).eval()
    assert len({id(layer.queries) for layer in model.decoder_layers}) == 4
    layer = model.decoder_layers[0]
    memory, positions = torch.randn(1, 256, 256), torch.randn(1, 256, 256)
    allowed = ~neighbourhood((16, 16), 7, torch.device("cpu"))
    x = layer.queries[None]
    x = layer.norm1(x + layer.first(x + positions, memory + positions, memory, allowed))
    x = layer.norm2(x + layer.second(x + positions, memory + positions, memory, allowed))
    expected = layer.norm3(x + layer.feed_forward(x))
    torch.testing.assert_close(layer(memory, memory, positions, (16, 16), allowed), expected)


def test_counts_are_the_published_ones():
    """24.5 M with the encoder's last stages, as published; 3.6 G without them, attention's products included."""
    parameters, macs = complexity(FULL)
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 1)) == (24.52, 3.6)
    assert parameters - trainable() == 16_742_216  # timm's EfficientNet-B4 without head and classifier
    with torch.device("meta"):
        model = build_model(FULL)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable()


def trainable() -> int:
    attention, norm = 4 * (256 * 256 + 256), 2 * 256
    feed_forward = 256 * 1024 + 1024 + 1024 * 256 + 256
    encoder = 4 * (attention + feed_forward + 2 * norm)
    decoder = 4 * (256 * 256 + 2 * attention + feed_forward + 3 * norm)
    return (272 * 256 + 256) + (256 * 272 + 272) + 2 * 16 * 128 + encoder + decoder


def test_weight_decay_is_on_everything():
    (optimizer,) = build_model(SMALL).make_optimizers(TrainingSettings(learning_rate=1e-4, weight_decay=1e-4))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)
