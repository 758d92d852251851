"""EfficientNet-Lite0, -Lite1 and -Lite2 as frozen encoders: stem and the first five stages, at strides 2, 4, 8, 16.

EfficientNet for small devices: no squeeze-and-excitation, ReLU6 for SiLU, stem and head of one width for all, first and
last stage of one block each. Ported from TensorFlow, so norms have its epsilon and stride-2 convolutions its padding.
Names of entries are those of the published files without their underscores.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConvConfig

from omniad.config import known
from omniad.data.packs import IMAGENET_MEAN, IMAGENET_STD
from omniad.models.efficientnet import LEVELS, STAGES, same_padding
from omniad.models.encoder import FrozenEncoder

# Encoder -> width and depth of Lite0's multiplied by.
LITES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
STEM = 32
EPSILON = 1e-3
AT_ONCE = 4  # images on a CPU, whose caches should hold what one layer hands to the next
# Images come with ImageNet's mean and deviation removed; these networks were trained on (x - 127) / 128, x in 0..255.
SCALE = [255 * std / 128 for std in IMAGENET_STD]
SHIFT = [(255 * mean - 127) / 128 for mean in IMAGENET_MEAN]


class EfficientNetLite(FrozenEncoder):
    """Images (B, 3, H, W) -> maps at 1/2, 1/4, 1/8, 1/16; H and W are multiples of 16."""

    def __init__(self, name: str, width: int = 64):
        """`width`: 64 is the published network, less scales every channel count (rounded to multiples of 8).

        Raises:
            UserError: no EfficientNet-Lite has this name.
        """
        super().__init__()
        known(name, LITES, "model.encoder of this method")
        stages = make_stages(name, width)[: LEVELS[-1]]
        stem = STEM * width // 64
        self.conv_stem = nn.Conv2d(3, stem, 3, stride=2, bias=False)
        self.bn0 = nn.BatchNorm2d(stem, eps=EPSILON)
        self.blocks = nn.ModuleList(block for stage in stages for block in stage)
        ends = list(accumulate(map(len, stages)))
        self.taken = [ends[level - 1] - 1 for level in LEVELS]  # blocks whose output is a feature map
        self.channels = [stages[level - 1][-1].channels for level in LEVELS]
        self.freeze()

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, c1, H/2, W/2), (B, c2, H/4, W/4), (B, c3, H/8, W/8), (B, c4, H/16, W/16)]."""
        if images.device.type == "cpu" and not torch.compiler.is_compiling():  # exported, how many there are is open
            parts = [self._maps(part) for part in images.split(AT_ONCE)]
            return [torch.cat(level) for level in zip(*parts, strict=True)]
        return self._maps(images)

    def _maps(self, images: Tensor) -> list[Tensor]:
        scale, shift = (images.new_tensor(values).view(3, 1, 1) for values in (SCALE, SHIFT))
        x = F.pad(images * scale + shift, same_padding(3))
        if x.device.type == "cpu":  # where the depthwise convolutions then take half the time
            x = x.contiguous(memory_format=torch.channels_last)
        x, maps = F.relu6(self.bn0(self.conv_stem(x))), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.taken:
                maps.append(x.contiguous())
        return maps

    def own_entries(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the stem and of the blocks up to stride 16."""
        named = {".".join(part.lstrip("_") for part in name.split(".")): value for name, value in entries.items()}
        mine = ("conv_stem.", "bn0.", *(f"blocks.{number}." for number in range(len(self.blocks))))
        return {name: value for name, value in named.items() if name.startswith(mine)}


def make_stages(name: str, width: int) -> list[list[Block]]:
    """The blocks of all seven stages; the first five are the encoder's."""
    wide, deep = LITES[name]
    inputs, stages = STEM * width // 64, []
    for number, (expansion, kernel, stride, _, channels, depth) in enumerate(STAGES):
        out = MBConvConfig.adjust_channels(channels, wide * width / 64)
        blocks = 1 if number in (0, len(STAGES) - 1) else MBConvConfig.adjust_depth(depth, deep)
        first = Block(inputs, out, kernel, stride, expansion)
        stages.append([first, *(Block(out, out, kernel, 1, expansion) for _ in range(blocks - 1))])
        inputs = out
    return stages


class Block(nn.Module):
    """Inverted bottleneck: 1x1 up, depthwise k x k, linear 1x1 down; its input is added where shapes agree."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * inputs
        self.channels, self.expands, self.adds = out, expansion > 1, stride == 1 and inputs == out
        if self.expands:
            self.expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(hidden, eps=EPSILON)
        self.padding = same_padding(kernel) if stride == 2 else None
        inside = 0 if stride == 2 else kernel // 2
        self.depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, inside, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, eps=EPSILON)
        self.project_conv = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.pad(y, self.padding) if self.padding else y
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return y + x if self.adds else y
