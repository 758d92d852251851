"""RLR against the authors' formulas, written out slowly, and against counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.baselines.rlr import ReferenceTransformer, sine_positions
from omniad.models.complexity import complexity
from omniad.training.loop import train_step

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


class Literal(nn.Module):
    """A level as the authors' code writes it, out of PyTorch's own attention; weights are copied in."""

    def __init__(self, channels: int, side: int, width: int, window: int):
        super().__init__()
        self.embedding, self.reference_embedding = (nn.Conv1d(channels, width, 1) for _ in range(2))
        self.reference = nn.Parameter(torch.empty(1, side * side, channels))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, 8, batch_first=True) for _ in range(8))
        self.linears = nn.ModuleList(
            nn.Linear(*pair) for _ in range(4) for pair in [(width, 4 * width), (4 * width, width)]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(9))
        self.projection = nn.Linear(width, channels)
        places = [(row, column) for row in range(side) for column in range(side)]
        far = [[max(abs(a - c), abs(b - d)) > window // 2 for c, d in places] for a, b in places]
        self.far = torch.tensor(far)
        self.positions = torch.zeros(side * side, width)
        for n, (row, column) in enumerate(places):
            for k in range(0, width // 2, 2):
                turn = 10000 ** (-k / (width // 2))
                self.positions[n, k], self.positions[n, k + 1] = math.sin(column * turn), math.cos(column * turn)
                self.positions[n, width // 2 + k] = math.sin(row * turn)
                self.positions[n, width // 2 + k + 1] = math.cos(row * turn)

    def forward(self, tokens):  # (B, L, C)
        x = self.embedding(tokens.transpose(1, 2)).transpose(1, 2) + self.positions
        reference = self.reference.repeat(len(tokens), 1, 1).transpose(1, 2)
        reference = self.reference_embedding(reference).transpose(1, 2) + self.positions
        for k in range(4):
            mca, nsa = self.attentions[2 * k], self.attentions[2 * k + 1]
            near_reference = mca(x, reference, reference, attn_mask=self.far)[0]  # a True is masked out
            x = self.norms[2 * k](2 * near_reference + nsa(x, reference, x, attn_mask=~self.far)[0])
            hidden = nn.functional.gelu(self.linears[2 * k](x))
            x = self.norms[2 * k + 1](x + self.linears[2 * k + 1](hidden))
        return self.projection(self.norms[8](x))

    def pairs(self, level: Any) -> list[tuple[Any, Any]]:
        """Its parameters, each beside the level's, in the same shape."""
        found: list[tuple[Any, Any]] = [(self.reference, level.reference.flatten(2).transpose(1, 2))]
        for conv, linear in ((self.embedding, level.embed), (self.reference_embedding, level.embed_reference)):
            found += [(conv.weight[..., 0], linear.weight), (conv.bias, linear.bias)]
        same: list[tuple[Any, Any]] = [(self.projection, level.restore), (self.norms[8], level.norm)]
        for k, layer in enumerate(level.layers):
            for theirs, mine in ((self.attentions[2 * k], layer.cross), (self.attentions[2 * k + 1], layer.self)):
                found += [(theirs.in_proj_weight, mine.inputs), (theirs.in_proj_bias, mine.input_bias)]
                same.append((theirs.out_proj, mine.output))
            same += [(self.norms[2 * k], layer.norm1), (self.norms[2 * k + 1], layer.norm2)]
            same += [(self.linears[2 * k], layer.feed_forward[0]), (self.linears[2 * k + 1], layer.feed_forward[2])]
        return found + [pair for a, b in same for pair in ((a.weight, b.weight), (a.bias, b.bias))]


SIZES = [(3, 8, 16, 7), (5, 6, 32, 5)]  # of two small levels: channels, side, width, window


def twins() -> tuple[Any, list[Literal], list[torch.Tensor]]:
    """A small RLR, the literal levels with its weights, and features; in double precision, because Adam divides small
    gradients (those of keys' biases are zero but for rounding) by themselves."""
    torch.manual_seed(0)
    model = build_model(SMALL.model_copy(update={"jitter": 0.0})).train()
    model.levels = nn.ModuleList(ReferenceTransformer(*size).double() for size in SIZES)
    literal = [Literal(*size).double() for size in SIZES]
    for theirs, mine in zip(literal, model.levels, strict=True):
        assert sum(a.numel() for a, _ in theirs.pairs(mine)) == sum(p.numel() for p in theirs.parameters())
        with torch.no_grad():
            for a, b in theirs.pairs(mine):
                a.copy_(b)
    return model, literal, [torch.randn(2, channels, side, side).double() for channels, side, _, _ in SIZES]


def literal_loss(model: Literal, features: torch.Tensor) -> torch.Tensor:
    tokens = features.flatten(2).transpose(1, 2)
    output = model(tokens)
    return ((output - tokens) ** 2).mean() + (1 - torch.cosine_similarity(output, tokens, dim=-1)).mean()


def test_reconstruction_and_loss_are_the_authors():
    model, literal, features = twins()
    for found, level, x in zip(model.reconstruct(features), literal, features, strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), level(x.flatten(2).transpose(1, 2)))
    expected = sum(literal_loss(level, x) for level, x in zip(literal, features, strict=True))
    torch.testing.assert_close(model.loss(features, TrainingSettings(), 0.0), expected)


def test_two_iterations_move_the_levels_as_the_authors_loop():
    """One Adam of both levels, a step after each level's loss, gradients cleared to zero as PyTorch 1.12 did."""
    model, literal, features = twins()
    training = TrainingSettings(learning_rate=1e-3, weight_decay=0.0, clip_norm=0.0)
    optimizers = model.make_optimizers(training)
    for _ in range(2):
        train_step(model, features, optimizers, training, 0.0)

    optimizer = torch.optim.Adam([p for level in literal for p in level.parameters()], lr=1e-3)
    turns = [0, 1, 0, 1, 0]  # in its third turn the first level's step moves the second once more
    for turn, number in enumerate(turns):
        if turn == 4:
            first = [a.clone() for a, _ in literal[0].pairs(model.levels[0])]
        optimizer.zero_grad(set_to_none=False)
        literal_loss(literal[number], features[number]).backward()
        optimizer.step()
    for found, (_, expected) in zip(first, literal[0].pairs(model.levels[0]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for found, expected in literal[1].pairs(model.levels[1]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_initial_distributions():
    torch.manual_seed(0)
    model: Any = build_model(FULL)
    for level, channels, width in zip(model.levels, (72, 200), (256, 512), strict=True):
        assert abs(level.reference.mean()) < 0.01
        assert level.reference.std().item() == pytest.approx(1, abs=0.01)
        for embedding in (level.embed, level.embed_reference):
            assert embedding.weight.std().item() == pytest.approx((2 / channels) ** 0.5, rel=0.03)
            assert embedding.bias.abs().max() <= channels**-0.5
        attention = level.layers[0].cross
        bound = (6 / (4 * width)) ** 0.5  # Xavier's, of a matrix of 3D x D
        assert 0.99 * bound < attention.inputs.abs().max() <= bound
        assert not attention.input_bias.any()
        assert not attention.output.bias.any()
        assert 0.99 * width**-0.5 < attention.output.weight.abs().max() <= width**-0.5


def test_positions_are_sines_and_cosines_of_column_and_row():
    found = sine_positions((3, 5), 8, torch.device("cpu"))[0, 2 * 5 + 4]  # row 2, column 4
    expected = [f(p * w) for p in (4, 2) for w in (1, 10000**-0.5) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_counts():
    """Counted: the encoder's stem and first five stages, and both transformers with all their products."""
    parameters, _ = complexity(FULL)
    with torch.device("meta"):
        model = build_model(FULL)
    trained = 0
    for channels, side, d in [(72, 32, 256), (200, 16, 512)]:
        layer = 8 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d
        embeddings = 2 * (channels * d + d)  # of the features and of the reference
        trained += channels * side**2 + embeddings + 2 * d + (d * channels + channels) + 4 * layer
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert parameters == trained + sum(p.numel() for p in model.encoder.parameters())
