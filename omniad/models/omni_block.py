"""The Omni-block: a global branch of two attentions, a local branch of depthwise convolutions, and an MLP (eq. 2-5).

Shapes: B images, N = h w positions, D channels. X is (B, N, D) in the equations; X' is the same as a map (B, D, h, w).
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.attention import Attention
from omniad.models.kernels import use_kernels
from omniad.models.norm import NormSiLU
from omniad.models.random_projection import RandomProjections
from omniad.models.readings import READINGS


class OmniBlock(nn.Module):
    """O = MLP(Y2 + F5) + X (eq. 5); with one branch alone, MLP(Y2) + X or MLP(F5) + X (Table V)."""

    def __init__(self, width: int, settings: ModelSettings, random: RandomProjections):
        super().__init__()
        self.global_branch = GlobalBranch(width, settings, random) if settings.branches != "local" else None
        self.local_branch = LocalBranch(width) if settings.branches != "global" else None
        self.mlp = MLP(width)

    def forward(self, x_map: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w); fastest in channels-last layout, where maps and tokens are the same memory."""
        size = (x_map.shape[2], x_map.shape[3])
        x = tokens(x_map)
        branches = []
        if self.global_branch is not None:
            branches.append(self.global_branch(x, size))  # Y2
        if self.local_branch is not None:
            branches.append(self.local_branch(x_map))  # F5
        out = self.mlp(branches[0] if len(branches) == 1 else branches[0] + branches[1]) + x  # eq. 5
        return out.transpose(1, 2).unflatten(2, size)


class GlobalBranch(nn.Module):
    """Two attentions in series, each with learnable tokens for Q or for K and V; either can be left out."""

    def __init__(self, width: int, settings: ModelSettings, random: RandomProjections):
        super().__init__()
        first, second = settings.first_attention, settings.second_attention
        self.first = Attention(width, first, settings, random) if first != "skip" else None
        self.second = Attention(width, second, settings, random) if second != "skip" else None
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
        self.conv3 = Separable(width, 3)
        self.conv5 = Separable(width, 5)
        self.merge = nn.Sequential(nn.Conv2d(2 * width, width, 1), NormSiLU())

    def forward(self, x_map: Tensor) -> Tensor:
        """X' (B, D, h, w) -> F5 (B, N, D)."""
        narrow, wide = self._depthwise(x_map)
        f3, f4 = self.conv3(narrow), self.conv5(wide)  # eq. 2, eq. 3
        conv, norm = self.merge
        weight, bias = pointwise(conv)
        left, right = weight.chunk(2, dim=1)  # the concatenation's 1x1 convolution, half by half
        return norm(F.linear(f3, left, bias) + F.linear(f4, right))  # eq. 4

    def _depthwise(self, x_map: Tensor) -> tuple[Tensor, Tensor]:
        """X' (B, D, h, w) -> DWConv 3x3 and DWConv 5x5 of it, (B, N, D) each; on a GPU in one kernel."""
        conv3, conv5 = self.conv3.depthwise, self.conv5.depthwise
        if use_kernels(x_map):
            from omniad.models.depthwise_triton import depthwise_pair

            return depthwise_pair(tokens(x_map), (x_map.shape[2], x_map.shape[3]), conv3, conv5)
        return tokens(conv3(x_map)), tokens(conv5(x_map))


class Separable(nn.Sequential):
    """DWConv k x k, then Conv 1 x 1, each followed by InstanceNorm and SiLU as released.

    Its forward begins behind the DWConv, which the branch computes for both kernel sizes at once.
    """

    def __init__(self, width: int, kernel: int):
        depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        # Numbered as when norm and activation stood by themselves, so that checkpoints keep their names.
        parts = {"0": depthwise, "1": NormSiLU(), "3": nn.Conv2d(width, width, 1), "4": NormSiLU()}
        super().__init__(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        _, norm1, conv, norm2 = self
        return norm2(F.linear(norm1(x), *pointwise(conv)))

    @property
    def depthwise(self) -> nn.Conv2d:
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return conv


class MLP(nn.Module):
    """Linear, InstanceNorm over the positions, SiLU, Linear (D -> D -> D), as released; the paper says only "MLP"."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.norm = NormSiLU()
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.linear2(self.norm(self.linear1(x)))


def tokens(x_map: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, N, D), without a copy where the map is in channels-last layout."""
    return x_map.flatten(2).transpose(1, 2)


def pointwise(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of a 1x1 convolution, for `linear` on tokens."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.flatten(1), conv.bias
