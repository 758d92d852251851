"""Omni-AD as one would first implement the paper: the baseline of the training benchmarks.

The encoder in every step, single precision, maps (B, D, h, w) and tokens (B, N, D) permuted into each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.attention import Attention
from omniad.models.omni_block import OmniBlock
from omniad.models.omniad import OmniAD


def plain_block(block: OmniBlock, x_map: Tensor) -> Tensor:
    """Equations 2-5 of the default model, literally; (B, D, h, w) -> (B, D, h, w)."""
    size = (x_map.shape[2], x_map.shape[3])
    x = x_map.flatten(2).transpose(1, 2)  # (B, N, D)
    local: Any = block.local_branch
    branch: Any = block.global_branch
    f3, f4 = (
        _norm_silu(F.conv2d(_norm_silu(depthwise(x_map)), conv.weight, conv.bias))
        for depthwise, _, conv, _ in (local.conv3, local.conv5)
    )
    f5 = _norm_silu(local.merge[0](torch.cat([f3, f4], dim=1))).flatten(2).transpose(1, 2)
    hidden = _norm_silu(block.mlp.linear1(branch(x, size) + f5).transpose(1, 2)).transpose(1, 2)
    return (block.mlp.linear2(hidden) + x).transpose(1, 2).unflatten(2, size)


def _norm_silu(x: Tensor) -> Tensor:
    return F.silu(F.instance_norm(x))


def plain_step(model: OmniAD, fused_attention: bool) -> Callable[[Tensor], Tensor]:
    """Turns `model` into the literal one; gives what makes one update from normalised images and returns the loss."""
    for module in model.modules():
        if isinstance(module, OmniBlock):
            module.forward = functools.partial(plain_block, module)
        if isinstance(module, Attention):
            module.fused = fused_attention
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": 1e-4},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)

    def step(images: Tensor) -> Tensor:
        with torch.no_grad():
            features = model.encoder(images)
        loss = model.loss(features, TrainingSettings())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 5.0)
        optimizer.step()
        return loss.detach()

    return step


def default_model(device: torch.device) -> OmniAD:
    torch.manual_seed(0)
    return OmniAD(ModelSettings()).to(device).train()
