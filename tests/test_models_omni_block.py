"""Equations 2-5 against literal slow implementations, for both readings and for single branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from omniad.config import ModelSettings
from omniad.models.omni_block import LocalBranch, OmniBlock
from omniad.models.random_projection import RandomProjections

D, H, W = 8, 4, 4


def instance_norm(x: torch.Tensor) -> torch.Tensor:
    """(B, D, h, w) with zero mean and unit variance over each map."""
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def pointwise(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """A linear layer or 1x1 convolution at every position of (B, C, h, w)."""
    weight = layer.weight.flatten(1)
    return torch.einsum("oc,bchw->bohw", weight, x) + layer.bias[None, :, None, None]


def depthwise(x: torch.Tensor, layer: Any) -> torch.Tensor:
    k = layer.kernel_size[0]
    padded = torch.zeros(len(x), D, H + k - 1, W + k - 1, dtype=x.dtype)
    padded[:, :, k // 2 : k // 2 + H, k // 2 : k // 2 + W] = x
    out = layer.bias[None, :, None, None].expand(x.shape).clone()
    for i in range(k):
        for j in range(k):
            out += layer.weight[None, :, 0, i, j, None, None] * padded[:, :, i : i + H, j : j + W]
    return out


def local_branch(x: torch.Tensor, branch: Any) -> torch.Tensor:
    """Eq. 2-4 with the released norms and activations."""
    f3, f4 = (
        silu(instance_norm(pointwise(silu(instance_norm(depthwise(x, conv[0]))), conv[2])))
        for conv in (branch.conv3, branch.conv5)
    )
    return silu(instance_norm(pointwise(torch.cat([f3, f4], 1), branch.merge[0])))


def block(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings = ModelSettings(**{"tokens": 4, "heads": 2, "projection": "none", **changes})
    module = OmniBlock(D, settings, RandomProjections(torch.Generator())).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def expected(module: Any, x: torch.Tensor, residual: bool) -> torch.Tensor:
    """Eq. 5 out of the attentions (tested by themselves) and the slow parts above."""
    summed = torch.zeros_like(x)
    if module.global_branch is not None:
        tokens = x.flatten(2).transpose(1, 2)
        branch = module.global_branch
        y1 = tokens if branch.first is None else branch.first(tokens, (H, W)) + tokens
        y2 = y1 if branch.second is None else branch.second(y1, (H, W)) + y1 + (tokens if residual else 0)
        summed = summed + y2.transpose(1, 2).reshape(x.shape)
    if module.local_branch is not None:
        summed = summed + local_branch(x, module.local_branch)
    hidden = silu(instance_norm(pointwise(summed, module.mlp.linear1)))
    return pointwise(hidden, module.mlp.linear2) + x


@pytest.mark.parametrize("branches", ["both", "global", "local"])
@pytest.mark.parametrize("variant", ["equations", "released"])
def test_equation_5(variant, branches):
    module = block(variant=variant, branches=branches)
    x = torch.randn(2, D, H, W, dtype=torch.double)
    torch.testing.assert_close(module(x), expected(module, x, residual=variant == "released"))


@pytest.mark.parametrize("second", ["q", "kv", "none", "skip"])
@pytest.mark.parametrize("first", ["q", "kv", "none", "skip"])
def test_every_combination_of_learnable_tokens(first, second):
    module = block(first_attention=first, second_attention=second)
    x = torch.randn(2, D, H, W, dtype=torch.double)
    out = module(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, expected(module, x, residual=False))
    for attention, learnable in ((module.global_branch.first, first), (module.global_branch.second, second)):
        assert (attention is None) == (learnable == "skip")
        assert attention is None or (attention.tokens is None) == (learnable == "none")


def test_depthwise_convolution_does_not_mix_channels():
    branch = LocalBranch(D)
    x = torch.zeros(1, D, H, W)
    x[:, 2, 1, 1] = 1
    out = branch.conv5[0](x) - branch.conv5[0](torch.zeros_like(x))
    assert out[:, 2].any() and not out[:, [c for c in range(D) if c != 2]].any()
