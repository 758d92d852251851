"""The neck: three encoder maps fused into one at half the coarsest resolution; and the jitter of its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from omniad.models.encoder import initialise_convolutions


class Neck(nn.Module):
    """Convolution blocks fuse the maps finest to coarsest; three ResNet bottlenecks halve the resolution once more.

    The paper says "one bottleneck layer"; the released code has three bottlenecks. Their inner width is a quarter of
    the output for basic ResNets and all of it for bottleneck ones, as the four parameter counts of Table VII need it.
    """

    def __init__(self, channels: list[int], inner: int, width: int):
        """`channels`: of the three maps, finest first; `inner`, `width`: inside the bottlenecks, of the output."""
        super().__init__()
        c1, c2, c3 = channels
        self.down1 = conv_block(c1, c2, kernel=3, stride=2)
        self.lateral2 = conv_block(c2, c2, kernel=1)
        self.down2 = conv_block(c2, c3, kernel=3, stride=2)
        self.lateral3 = conv_block(c3, c3, kernel=1)
        self.fuse = conv_block(c3, c3, kernel=1)
        out = 2 * c3
        shortcut = nn.Sequential(nn.Conv2d(c3, out, 1, stride=2, bias=False), nn.BatchNorm2d(out))
        planes = out // Bottleneck.expansion
        base_width = 64 * inner // planes  # torchvision's unit: inner channels per 64 planes
        self.bottlenecks = nn.Sequential(
            Bottleneck(c3, planes, stride=2, downsample=shortcut, base_width=base_width),
            Bottleneck(out, planes, base_width=base_width),
            Bottleneck(out, planes, base_width=base_width),
        )
        self.project = nn.Conv2d(out, width, 1) if width != out else nn.Identity()  # to another decoder's width
        initialise_convolutions(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """[(B, c1, h, w), (B, c2, h/2, w/2), (B, c3, h/4, w/4)] -> (B, width, h/8, w/8)."""
        f1, f2, f3 = features
        fused = self.lateral2(f2) + self.down1(f1)
        fused = self.down2(fused) + self.lateral3(f3)
        return self.project(self.bottlenecks(self.fuse(fused)))


def conv_block(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """CBR: Conv, BatchNorm, ReLU. The 1x1 convolutions have a bias, as released."""
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=kernel == 1)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def jitter(x: Tensor, scale: float) -> Tensor:
    """Each token t (the C channels at one position) plus N(0, I) ||t||_2 / C scale; (B, C, h, w) -> (B, C, h, w).

    Not in the paper; the released code does it to the neck's output in every training step, with scale 20.
    """
    norm = x.norm(dim=1, keepdim=True)  # (B, 1, h, w)
    return x + torch.randn_like(x) * norm / x.shape[1] * scale
