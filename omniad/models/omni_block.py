"""The Omni-block: a global branch of two attentions, a local branch of depthwise convolutions, and an MLP (eq. 2-5).

Shapes: B images, N = h w positions, D channels. X is (B, N, D) in the equations; X' is the same as a map (B, D, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.attention import Attention
from omniad.models.readings import READINGS


class OmniBlock(nn.Module):
    """O = MLP(Y2 + F5) + X (eq. 5); with one branch alone, MLP(Y2) + X or MLP(F5) + X (Table V)."""

    def __init__(self, width: int, settings: ModelSettings, generator: torch.Generator):
        super().__init__()
        self.global_branch = GlobalBranch(width, settings, generator) if settings.branches != "local" else None
        self.local_branch = LocalBranch(width) if settings.branches != "global" else None
        self.mlp = MLP(width)

    def forward(self, x_map: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        size = (x_map.shape[2], x_map.shape[3])
        x = x_map.flatten(2).transpose(1, 2)  # (B, N, D)
        branches = []
        if self.global_branch is not None:
            branches.append(self.global_branch(x, size))  # Y2
        if self.local_branch is not None:
            branches.append(self.local_branch(x_map).flatten(2).transpose(1, 2))  # F5
        out = self.mlp(branches[0] if len(branches) == 1 else branches[0] + branches[1]) + x  # eq. 5
        return out.transpose(1, 2).unflatten(2, size)


class GlobalBranch(nn.Module):
    """Two attentions in series, each with learnable tokens for Q or for K and V; either can be left out."""

    def __init__(self, width: int, settings: ModelSettings, generator: torch.Generator):
        super().__init__()
        first, second = settings.first_attention, settings.second_attention
        self.first = Attention(width, first, settings, generator) if first != "skip" else None
        self.second = Attention(width, second, settings, generator) if second != "skip" else None
        self.input_residual = READINGS[settings.variant].input_residual

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """X (B, N, D) -> Y2 (B, N, D)."""
        y1 = x if self.first is None else self.first(x, size) + x  # Y1 = Up(F1) + X
        if self.second is None:
            return y1
        y2 = self.second(y1, size) + y1  # Y2 = F2 + Y1
        return y2 + x if self.input_residual else y2


class LocalBranch(nn.Module):
    """Depthwise separable convolutions of two kernel sizes, concatenated and reduced (eq. 2-4)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv3 = separable(width, 3)
        self.conv5 = separable(width, 5)
        self.merge = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.InstanceNorm2d(width), nn.SiLU())

    def forward(self, x_map: Tensor) -> Tensor:
        """X' (B, D, h, w) -> F5 before Flatten (B, D, h, w)."""
        f3, f4 = self.conv3(x_map), self.conv5(x_map)  # eq. 2, eq. 3
        return self.merge(torch.cat([f3, f4], dim=1))  # eq. 4


def separable(width: int, kernel: int) -> nn.Sequential:
    """DWConv k x k, then Conv 1 x 1, each followed by InstanceNorm and SiLU as released."""
    return nn.Sequential(
        nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width),
        nn.InstanceNorm2d(width),
        nn.SiLU(),
        nn.Conv2d(width, width, 1),
        nn.InstanceNorm2d(width),
        nn.SiLU(),
    )


class MLP(nn.Module):
    """Linear, InstanceNorm over the positions, SiLU, Linear (D -> D -> D), as released; the paper says only "MLP"."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.norm = nn.InstanceNorm1d(width)
        self.activation = nn.SiLU()
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden = self.norm(self.linear1(x).transpose(1, 2)).transpose(1, 2)
        return self.linear2(self.activation(hidden))
