"""The decoder: four stages of Omni-blocks; stages 2-4 begin by doubling the resolution (Fig. 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.omni_block import OmniBlock


class Decoder(nn.Module):
    """Neck output (B, 8C, h, w) -> reconstructions at twice, four and eight times its resolution."""

    def __init__(self, widths: list[int], settings: ModelSettings, generator: torch.Generator):
        """`widths`: channels of the four stages, coarsest first; each is half of the one before."""
        super().__init__()
        expands = [None, *(PatchExpand(coarse) for coarse, _ in pairwise(widths))]
        self.stages = nn.ModuleList(
            Stage(expand, [OmniBlock(width, settings, generator) for _ in range(depth)])
            for expand, width, depth in zip(expands, widths, settings.depths, strict=True)
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 8C, h, w) -> [(B, C, 8h, 8w), (B, 2C, 4h, 4w), (B, 4C, 2h, 2w)], finest first."""
        outputs = []
        x = x.contiguous(memory_format=torch.channels_last)  # every stage and block keeps this layout
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs[:0:-1]  # without the first stage's, which reconstructs no feature map


class Stage(nn.Module):
    """An optional patch expand, then Omni-blocks in series."""

    def __init__(self, expand: PatchExpand | None, blocks: list[OmniBlock]):
        super().__init__()
        self.expand = expand
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x if self.expand is None else self.expand(x))


class PatchExpand(nn.Module):
    """Twice the resolution and half the channels: Linear C -> 2C, 2x2 positions out of the channels, LayerNorm."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C/2, 2h, 2w)."""
        x = self.linear(x.permute(0, 2, 3, 1)).unflatten(-1, (2, 2, -1))  # (B, h, w, 2, 2, C/2)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, 2h, 2w, C/2)
        return self.norm(x).permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
