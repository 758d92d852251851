"""The decoder: four stages of Omni-blocks; stages 2-4 begin by doubling the resolution (Fig. 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.omni_block import OmniBlock
from omniad.models.random_projection import RandomProjections


class Decoder(nn.Module):
    """Neck output (B, widths[0], h, w) -> reconstructions at twice, four and eight times its resolution."""

    def __init__(self, widths: list[int], channels: list[int], settings: ModelSettings, random: RandomProjections):
        """`widths`: of the four stages, coarsest first; `channels`: of the encoder's three maps, finest first."""
        super().__init__()
        expands = [None, *(PatchExpand(coarse, fine) for coarse, fine in pairwise(widths))]
        self.stages = nn.ModuleList(
            Stage(expand, [OmniBlock(width, settings, random) for _ in range(depth)])
            for expand, width, depth in zip(expands, widths, settings.depths, strict=True)
        )
        self.restore = restoration(widths, channels)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, widths[0], h, w) -> [(B, c1, 8h, 8w), (B, c2, 4h, 4w), (B, c3, 2h, 2w)], finest first."""
        outputs = []
        x = x.contiguous(memory_format=torch.channels_last)  # every stage and block keeps this layout
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return self.restore(outputs[:0:-1])  # without the first stage's, which reconstructs no feature map


class Stage(nn.Module):
    """An optional patch expand, then Omni-blocks in series."""

    def __init__(self, expand: PatchExpand | None, blocks: list[OmniBlock]):
        super().__init__()
        self.expand = expand
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x if self.expand is None else self.expand(x))


class PatchExpand(nn.Module):
    """Twice the resolution, half the channels: Linear C -> 4C', 2x2 positions out of the channels, LayerNorm."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear = nn.Linear(width, 4 * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', 2h, 2w)."""
        x = self.linear(x.permute(0, 2, 3, 1)).unflatten(-1, (2, 2, -1))  # (B, h, w, 2, 2, C')
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, 2h, 2w, C')
        return self.norm(x).permute(0, 3, 1, 2)


class Restore(nn.ModuleList):
    """A 1x1 convolution a scale, from a decoder's widths to the encoder's channels."""

    def forward(self, outputs: list[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self, outputs, strict=True)]


def stage_widths(settings: ModelSettings, channels: list[int]) -> list[int]:
    """Of a decoder's four stages, coarsest first: as set, else 8C, 4C, 2C, C with the encoder's finest C channels."""
    return settings.widths or [8 * channels[0], 4 * channels[0], 2 * channels[0], channels[0]]


def restoration(widths: list[int], channels: list[int]) -> nn.Module:
    """What leads a decoder's three finest stages to the encoder's channels: nothing where both agree, as in ResNets."""
    finest_first = widths[:0:-1]
    if finest_first == channels:
        return nn.Identity()
    return Restore(nn.Conv2d(width, count, 1) for width, count in zip(finest_first, channels, strict=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
