"""Equation 1 and its learnable tokens, against PyTorch's own module and explicit loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from omniad.config import Learnable, ModelSettings
from omniad.models.attention import Attention, eager_attention, fused_attention, upsample
from omniad.models.random_projection import RandomProjection, RandomProjections

D, T, SIZE = 16, 4, (3, 5)
N = SIZE[0] * SIZE[1]


def attention(learnable: Learnable, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = ModelSettings(**{"tokens": T, "heads": 2, **changes})
    projections = RandomProjections(torch.Generator().manual_seed(0))
    module = Attention(D, learnable, settings, projections).double()
    projections.draw(torch.device("cpu"))
    for parameter in module.parameters():  # no zeros, so that every parameter matters
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("learnable", ["q", "kv", "none"])
def test_equation_1_is_multihead_attention(learnable):
    ours = attention(learnable)
    oracle: Any = nn.MultiheadAttention(D, 2, batch_first=True).double()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        oracle.out_proj.weight.copy_(ours.output.weight)
        oracle.out_proj.bias.copy_(ours.output.bias)
    x = torch.randn(2, N, D, dtype=torch.double)
    tokens = x if learnable == "none" else ours.tokens.expand(2, -1, -1)
    query, source = (tokens if learnable == "q" else x), (tokens if learnable == "kv" else x)
    expected = oracle(query, source, source, need_weights=False)[0]
    if (
        learnable == "q"
    ):  # nearest: position (i, j) of h x w takes token (floor(2 i / h), floor(2 j / w)) of the 2 x 2 grid
        places = [(2 * i // SIZE[0]) * 2 + 2 * j // SIZE[1] for i in range(SIZE[0]) for j in range(SIZE[1])]
        expected = expected[:, places]
    torch.testing.assert_close(ours(x, SIZE), expected)


@pytest.mark.parametrize("shape", [(1, 2, T, 1), (1, 2, 1, T), None])
def test_bias_after_the_softmax_by_explicit_loops(shape):
    torch.manual_seed(0)
    queries, keys = (T, N) if shape and shape[2] == T else (N, T)
    query, key, value = (torch.randn(2, 2, n, 8, dtype=torch.double) for n in (queries, keys, keys))
    bias = None if shape is None else torch.randn(shape, dtype=torch.double)
    expected = torch.zeros_like(query)
    for image in range(2):
        for head in range(2):
            for n in range(queries):
                scores = [math.exp(query[image, head, n] @ key[image, head, s] / math.sqrt(8)) for s in range(keys)]
                for s in range(keys):
                    added = 0.0 if bias is None else bias.expand(1, 2, queries, keys)[0, head, n, s]
                    expected[image, head, n] += (scores[s] / sum(scores) + added) * value[image, head, s]
    torch.testing.assert_close(eager_attention(query, key, value, bias), expected)
    torch.testing.assert_close(fused_attention(query, key, value, bias), expected)


@pytest.mark.parametrize("variant", ["equations", "released"])
@pytest.mark.parametrize("learnable", ["q", "kv", "none"])
def test_fused_and_eager_give_the_same_outputs_and_gradients(monkeypatch, variant, learnable):
    module = attention(learnable, variant=variant, projection="none")
    x = torch.randn(2, N, D, dtype=torch.double)
    results = []
    for fused in (True, False):
        monkeypatch.setattr(Attention, "fused", fused)
        module.zero_grad()
        out = module(x, SIZE)
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad.clone() for parameter in module.parameters())])
    torch.testing.assert_close(*results)


def inputs_of(module: Attention, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the query and key_value projections are given."""
    seen = {}
    hooks = [
        getattr(module, name).register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].detach()})
        )
        for name in ("query", "key_value")
    ]
    module(x, SIZE)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("learnable", "independent"), [("q", {"query"}), ("kv", {"key_value"}), ("none", set())])
@pytest.mark.parametrize("variant", ["equations", "released"])
def test_what_is_learnable_does_not_depend_on_the_input(variant, learnable, independent):
    module = attention(learnable, variant=variant)
    one, other = (inputs_of(module, torch.randn(2, N, D, dtype=torch.double)) for _ in range(2))
    same = {name for name in one if one[name].shape == other[name].shape and torch.equal(one[name], other[name])}
    assert same == independent
    for name in independent:
        assert len(one[name]) == 1, "the same for every image of a batch, and computed once"


def test_upsample_lays_tokens_out_as_a_grid():
    tokens = torch.arange(4.0).reshape(1, 4, 1)  # 0 1 / 2 3
    assert upsample(tokens, (2, 2)).flatten().tolist() == [0, 1, 2, 3]
    assert upsample(tokens, (4, 2)).flatten().tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert upsample(tokens, (1, 1)).flatten().tolist() == [0]


def test_starts_of_the_two_readings():
    settings = ModelSettings(tokens=64)
    torch.manual_seed(0)
    random = RandomProjections(torch.Generator())
    ours: Any = Attention(256, "q", settings, random)
    assert ours.bias is None
    assert ours.tokens.std().item() == pytest.approx(0.02, rel=0.02)  # 16384 draws
    released: Any = Attention(
        256, "q", settings.model_copy(update={"variant": "released"}), RandomProjections(torch.Generator())
    )
    assert not released.tokens.any() and not released.bias.any()
    assert released.bias.shape == (1, 8, 64, 1)
    assert list(dict(released.named_parameters())) == ["tokens", "bias"] + [
        f"{part}.{kind}" for part in ("query", "key_value") for kind in ("weight", "bias")
    ]


def test_random_projections_are_drawn_anew_and_distributed_as_nn_linear():
    width = 64
    projections = RandomProjections(torch.Generator().manual_seed(0))
    projection = RandomProjection(width, projections)
    assert not list(projection.parameters()) and not projection.state_dict()
    x, outputs = torch.randn(4, width), []
    for _ in range(2):
        projections.draw(x.device)
        outputs.append(projection(x))
    assert not torch.equal(*outputs)
    weight, bias = projection.layers[0][:-1], projection.layers[0][-1]
    torch.manual_seed(0)
    reference = nn.Linear(width, width)
    for ours, theirs in ((weight, reference.weight), (bias, reference.bias)):
        assert ours.shape == theirs.shape
        assert ours.abs().max() <= 1 / math.sqrt(width)
    assert weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.05)


def test_one_draw_for_all_projections_gives_the_numbers_of_one_draw_a_layer():
    """What a seed gives, written out: layer by layer, in the order in which the projections are called."""
    projections = RandomProjections(torch.Generator().manual_seed(5))
    members = [RandomProjection(width, projections) for width in (32, 32, 16)]
    by_hand = torch.Generator().manual_seed(5)
    for _ in range(2):  # forward passes
        projections.draw(torch.device("cpu"))
        for member in members:
            x = torch.randn(3, member.width)
            drawn = []
            for _ in range(2):
                bound = 1 / math.sqrt(member.width)
                drawn.append(torch.empty(member.width + 1, member.width).uniform_(-bound, bound, generator=by_hand))
            (a, b), (c, d) = ((layer[:-1], layer[-1]) for layer in drawn)
            expected = nn.functional.silu(x @ a.T + b) @ c.T + d
            torch.testing.assert_close(member(x), expected)


def test_projections_first_drawn_in_inference_serve_training():
    projections = RandomProjections(torch.Generator())
    projection = RandomProjection(8, projections)
    with torch.inference_mode():
        projections.draw(torch.device("cpu"))
    x = torch.randn(2, 8, requires_grad=True)
    projection(x).sum().backward()
    assert x.grad is not None and x.grad.any()


def test_gradients_pass_through_the_random_projection():
    module = attention("kv", variant="released", projection="random")
    module(torch.randn(2, N, D, dtype=torch.double), SIZE).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in (module.query.weight, module.tokens, module.bias))
