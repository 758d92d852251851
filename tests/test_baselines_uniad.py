"""UniAD and its parts against literal formulas and counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from omniad.config import ModelSettings, TrainingSettings, load_settings, run_settings
from omniad.models import build_model
from omniad.models.baselines.attention import Attention, fit_grid, neighbourhood
from omniad.models.baselines.uniad import UniAD
from omniad.models.complexity import complexity
from omniad.training.loop import train_step

SMALL = ModelSettings(method="uniad", encoder="tf_efficientnet_b4", encoder_width=8)
FULL = ModelSettings(method="uniad", encoder="tf_efficientnet_b4")


@pytest.mark.parametrize(
    ("size", "window", "reach"), [((16, 16), 9, 4), ((14, 14), 7, 3), ((5, 6), 3, 1), ((6, 6), 7, 2), ((4, 4), 7, 1)]
)
def test_neighbourhood(size, window, reach):
    near = neighbourhood(size, window, torch.device("cpu"))
    places = [(row, column) for row in range(size[0]) for column in range(size[1])]
    expected = [[max(abs(a - c), abs(b - d)) <= reach for c, d in places] for a, b in places]
    assert near.tolist() == expected
    assert not near.all(dim=1).any()  # something is left outside


def test_attention_is_pytorchs_from_the_start():
    torch.manual_seed(0)
    mine = Attention(16, 4)
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = mine.inputs.data, mine.input_bias.data
    theirs.out_proj.load_state_dict(mine.output.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    allowed = torch.rand(5, 7) > 0.4
    allowed[:, 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~allowed)
    torch.testing.assert_close(mine(query, key, value, allowed), expected)


class Literal(nn.Module):
    """UniAD's transformer on a 16x16 grid as ADer's code writes it: tokens first, PyTorch's attention, an -inf mask."""

    def __init__(self, channels: int):
        super().__init__()
        self.attentions: Any = nn.ModuleList(nn.MultiheadAttention(256, 8, dropout=0.1) for _ in range(4 + 8))
        self.linears = nn.ModuleList(nn.Linear(*pair) for _ in range(8) for pair in [(256, 1024), (1024, 256)])
        self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(4 * 2 + 4 * 3 + 1))
        self.queries: Any = nn.ModuleList(nn.Embedding(256, 256) for _ in range(4))
        self.rows, self.columns = nn.Embedding(16, 128), nn.Embedding(16, 128)
        self.input, self.output = nn.Linear(channels, 256), nn.Linear(256, channels)
        self.mask = torch.zeros(16, 16, 16, 16, dtype=torch.double)
        for i in range(16):
            for j in range(16):
                self.mask[i, j, max(i - 4, 0) : min(i + 5, 16), max(j - 4, 0) : min(j + 5, 16)] = -torch.inf
        self.mask = self.mask.view(256, 256)

    def forward(self, features):  # (B, C, 16, 16)
        count, norms, linears = len(features), iter(self.norms), iter(self.linears)
        places = [torch.cat([self.columns.weight[j], self.rows.weight[i]]) for i in range(16) for j in range(16)]
        positions = torch.stack(places)[:, None].repeat(1, count, 1)  # (N, B, D)
        x = self.input(features.flatten(2).permute(2, 0, 1))

        def feed_forward(x):
            first, second = next(linears), next(linears)
            return second(torch.relu(first(x)))

        for attention in self.attentions[:4]:
            found = attention(x + positions, x + positions, x, attn_mask=self.mask)[0]
            x = next(norms)(x + found)
            x = next(norms)(x + feed_forward(x))
        memory = x
        for k, queries in enumerate(self.queries):
            first, second = self.attentions[4 + 2 * k], self.attentions[5 + 2 * k]
            y = queries.weight[:, None].repeat(1, count, 1)
            y = next(norms)(y + first(y + positions, memory + positions, memory, attn_mask=self.mask)[0])
            y = next(norms)(y + second(y + positions, x + positions, x, attn_mask=self.mask)[0])
            x = next(norms)(y + feed_forward(y))
        return self.output(next(norms)(x)).permute(1, 2, 0).view_as(features)

    def pairs(self, model: Any) -> list[tuple[Any, Any]]:
        """Its parameters, each beside the model's."""
        found: list[tuple[Any, Any]] = [(self.rows.weight, model.rows), (self.columns.weight, model.columns)]
        found += [(q.weight, layer.queries) for q, layer in zip(self.queries, model.decoder_layers, strict=True)]
        same: list[tuple[Any, Any]] = [(self.input, model.embed), (self.output, model.restore)]
        attentions = [layer.attention for layer in model.encoder_layers]
        attentions += [part for layer in model.decoder_layers for part in (layer.first, layer.second)]
        for theirs, mine in zip(self.attentions, attentions, strict=True):
            found += [(theirs.in_proj_weight, mine.inputs), (theirs.in_proj_bias, mine.input_bias)]
            same.append((theirs.out_proj, mine.output))
        layers = [*model.encoder_layers, *model.decoder_layers]
        mine = [layer.feed_forward[part] for layer in layers for part in (0, 3)]
        same += list(zip(self.linears, mine, strict=True))
        mine = [norm for layer in layers for name, norm in layer.named_children() if name.startswith("norm")]
        same += list(zip(self.norms, [*mine, model.norm], strict=True))
        return found + [pair for a, b in same for pair in ((a.weight, b.weight), (a.bias, b.bias))]


def twins() -> tuple[Any, Literal, torch.Tensor]:
    """A small UniAD without noise and dropout, the literal transformer with its weights, and features; double."""
    torch.manual_seed(0)
    model: Any = build_model(SMALL.model_copy(update={"jitter": 0.0})).double().eval()
    channels = model.embed.in_features
    literal = Literal(channels).double().eval()
    assert sum(a.numel() for a, _ in literal.pairs(model)) == sum(p.numel() for p in literal.parameters())
    with torch.no_grad():
        for a, b in literal.pairs(model):
            a.copy_(b)
    return model, literal, torch.randn(2, channels, 16, 16).double()


def test_reconstruction_and_map_are_the_authors():
    model, literal, features = twins()
    (found,) = model.reconstruct([features])
    with torch.no_grad():
        expected = literal(features)
        torch.testing.assert_close(found, expected)
        distance = ((expected - features) ** 2).sum(dim=1, keepdim=True).sqrt()
        maps = nn.UpsamplingBilinear2d(scale_factor=16)(distance)[:, 0]
    torch.testing.assert_close(model.anomaly_maps([features], 256), maps.float())


def test_a_step_is_the_reruns():
    """AdamW at 1e-4 without decay on what is one-dimensional, gradients clipped at norm 5."""
    model, literal, features = twins()
    run = run_settings(load_settings(), "mvtec", "uniad")
    features *= 30  # so that clipping matters
    optimizers = model.make_optimizers(run.training)
    _, norm = train_step(model, [features], optimizers, run.training, 0.0)
    assert norm > run.training.clip_norm == 5

    flat = [p for p in literal.parameters() if p.ndim == 1]
    deep = [p for p in literal.parameters() if p.ndim > 1]
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": deep, "weight_decay": 1e-4}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    nn.functional.mse_loss(literal(features), features).backward()
    gradients: Any = [p.grad for p in literal.parameters()]
    total = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    for gradient in gradients:
        gradient *= 5 / total
    optimizer.step()
    for found, expected in literal.pairs(model):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_initial_distributions():
    torch.manual_seed(0)
    model: Any = build_model(FULL)
    queries = [layer.queries for layer in model.decoder_layers]
    assert abs(queries[0].mean()) < 0.02
    assert queries[0].std().item() == pytest.approx(1, abs=0.01)
    projections = [layer.attention.inputs for layer in model.encoder_layers]
    assert 0.99 * 0.0766 < projections[0].abs().max() <= (6 / 1024) ** 0.5  # 0.0765: of a matrix of 768 x 256
    for copies in (queries, projections):  # a layer's copies start alike where nothing is drawn again
        assert all(torch.equal(copies[0], other) for other in copies[1:])
    outputs = [layer.attention.output for layer in model.encoder_layers]
    assert not torch.equal(outputs[0].weight, outputs[1].weight)
    for linear, bound in [
        (outputs[0], (6 / 512) ** 0.5),
        (model.embed, (6 / 528) ** 0.5),
        (model.restore, (6 / 528) ** 0.5),
    ]:
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()
    for embedding in (model.rows, model.columns):  # uniform in [0, 1]
        assert (embedding.min() >= 0, embedding.max() <= 1) == (True, True)
        assert embedding.std().item() == pytest.approx(12**-0.5, rel=0.05)


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
    return (272 * 256 + 256) + (256 * 272 + 272) + 2 * 16 * 128 + encoder + decoder + norm
