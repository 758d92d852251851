"""DINOv2's vision transformer with registers as a frozen encoder, under the names of its published file.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; Darcet et al., "Vision
Transformers Need Registers", ICLR 2024. Built here and not taken from a library: a page of code, whose entries are the
file's own, where timm renames them and resizes the position embedding otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import known
from omniad.models.encoder import FrozenEncoder

PATCH, GRID, REGISTERS = 14, 37, 4  # GRID: patches along a side of the images that it was trained on
EXTRA = 1 + REGISTERS  # tokens before the patches': class and registers
HEADS, MLP_RATIO = 12, 4
BLOCKS, USED = 12, range(2, 10)  # of the published network, and those whose outputs are given; the last two never run
DINOV2 = ("dinov2_vitb14_reg",)


class DinoV2(FrozenEncoder):
    """Images -> tokens after eight of the blocks, without the final norm."""

    def __init__(self, name: str, width: int = 64):
        """`width`: 64 is the published network, of 768 channels; less scales them.

        Raises:
            UserError: no DINOv2 encoder has this name.
        """
        super().__init__()
        known(name, DINOV2, "model.encoder of this method")
        channels = HEADS * width
        self.channels = [channels] * len(USED)
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        self.register_tokens = nn.Parameter(torch.empty(1, REGISTERS, channels))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + GRID**2, channels))
        for parameter in (self.cls_token, self.register_tokens, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, channels, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(channels) for _ in range(USED.stop))
        self.freeze()

    def tokens(self, images: Tensor) -> list[Tensor]:
        """(B, 3, 14 h, 14 w) -> after each of the blocks 2 to 9 (B, 5 + h w, D): class, registers, patches by row."""
        patches = self.patch_embed["proj"](images)  # (B, D, h, w)
        height, width = map(int, patches.shape[2:])
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(height, width)
        x = torch.cat([x[:, :1], self.register_tokens.expand(len(images), -1, -1), x[:, 1:]], dim=1)
        outputs = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in USED:
                outputs.append(x)
        return outputs

    def positions(self, height: int, width: int) -> Tensor:
        """The learned position embedding of class and patches on another grid: (1, 1 + h w, D).

        Resized bicubically without antialiasing and by a factor that is a tenth of a patch too large, as the published
        training did it and as Dinomaly's authors do.
        """
        if (height, width) == (GRID, GRID):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))  # (1, D, 37, 37)
        factors = ((height + 0.1) / GRID, (width + 0.1) / GRID)
        resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The patches' tokens as maps (B, D, h, w) of images resized to whole patches."""
        height, width = (side // PATCH for side in images.shape[2:])
        fitted = F.interpolate(images, size=(PATCH * height, PATCH * width), mode="bilinear", align_corners=False)
        return [x[:, EXTRA:].transpose(1, 2).unflatten(2, (height, width)) for x in self.tokens(fitted)]

    @staticmethod
    def own_entries(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All but those of the blocks that never run, the final norm and the token that masks patches in training."""
        cut = ("mask_token", "norm.", *(f"blocks.{number}." for number in range(USED.stop, BLOCKS)))
        return {name: value for name, value in entries.items() if not name.startswith(cut)}


def unused_parts(width: int) -> list[nn.Module]:
    """What a published file holds besides: its last blocks, its final norm, its mask token."""
    channels = HEADS * width
    mask = nn.ParameterList([nn.Parameter(torch.empty(1, channels))])
    return [*(Block(channels) for _ in range(USED.stop, BLOCKS)), nn.LayerNorm(channels), mask]


class Block(nn.Module):
    """Pre-norm transformer block with layer scale: (B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn, self.mlp = SelfAttention(channels), Mlp(channels)
        self.ls1, self.ls2 = LayerScale(channels), LayerScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class SelfAttention(nn.Module):
    """Multi-head attention of all tokens to all: (B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(x))
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))


class Mlp(nn.Module):
    """(B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


def split_heads(qkv: Tensor) -> Tensor:
    """(B, N, 3 D) -> queries, keys and values, (3, B, H, N, D_h)."""
    return qkv.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D_h) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)
