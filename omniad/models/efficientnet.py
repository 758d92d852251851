"""EfficientNet-B4 and -B6 as frozen encoders: stem and the first five stages, at strides 2, 4, 8 and 16.

Built from torchvision's blocks under torchvision's names, in two kinds: torchvision's own networks (`efficientnet_*`)
and those ported from TensorFlow (`tf_efficientnet_*`, timm's files), whose stride-2 convolutions pad more at the right
and at the bottom and whose norms have another epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.ops.misc import Conv2dNormActivation

from omniad.config import known
from omniad.models.encoder import FrozenEncoder

# Encoder -> width and depth of B0's multiplied by, epsilon of the norms, padding as TensorFlow's.
EFFICIENTNETS: dict[str, tuple[float, float, float, bool]] = {
    "efficientnet_b4": (1.4, 1.8, 1e-5, False),
    "efficientnet_b6": (1.8, 2.6, 1e-3, False),
    "tf_efficientnet_b4": (1.4, 1.8, 1e-3, True),
    "tf_efficientnet_b6": (1.8, 2.6, 1e-3, True),
}
# B0's stages: expansion, kernel, stride, channels in and out, blocks.
STAGES = [
    *((1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3)),
    *((6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1)),
]
LEVELS = (1, 2, 3, 5)  # stages after which the resolution halves
# timm's names inside a block -> torchvision's, in a block that expands and in one that does not.
EXPANDING = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "3.0",
    "bn3": "3.1",
    "se.conv_reduce": "2.fc1",
    "se.conv_expand": "2.fc2",
}
PLAIN = {
    "conv_dw": "0.0",
    "bn1": "0.1",
    "conv_pw": "2.0",
    "bn2": "2.1",
    "se.conv_reduce": "1.fc1",
    "se.conv_expand": "1.fc2",
}


class EfficientNetEncoder(FrozenEncoder):
    """Images (B, 3, H, W) -> maps at 1/2, 1/4, 1/8, 1/16; H and W are multiples of 16."""

    def __init__(self, name: str, width: int = 64):
        """`width`: 64 is the published network, less scales every channel count (rounded to multiples of 8).

        Raises:
            UserError: no EfficientNet has this name.
        """
        super().__init__()
        _, _, epsilon, tensorflow = EFFICIENTNETS[known(name, EFFICIENTNETS, "model.encoder of this method")]
        configs = stage_configs(name, width)[: LEVELS[-1]]
        norm = partial(nn.BatchNorm2d, eps=epsilon)
        stem = Conv2dNormActivation(
            3, configs[0].input_channels, 3, stride=2, norm_layer=norm, activation_layer=nn.SiLU
        )
        self.features = nn.Sequential(stem, *(stage(config, norm) for config in configs))
        self.channels = [configs[level - 1].out_channels for level in LEVELS]
        if tensorflow:
            for module in self.modules():
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.padding = (0, 0)
                    module.register_forward_pre_hook(_pad_as_tensorflow)
        self.freeze()

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, c1, H/2, W/2), (B, c2, H/4, W/4), (B, c3, H/8, W/8), (B, c4, H/16, W/16)]."""
        x, maps = images, []
        for number, part in enumerate(self.features):
            x = part(x)
            if number in LEVELS:
                maps.append(x)
        return maps

    def own_entries(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the stem and the first five stages; timm's under torchvision's names."""
        named = {torchvision_name(name): value for name, value in entries.items()}
        mine = tuple(f"features.{number}." for number in range(LEVELS[-1] + 1))
        return {name: value for name, value in named.items() if name.startswith(mine)}


def torchvision_name(name: str) -> str:
    """torchvision's name of a timm entry: blocks.1.0.conv_pw.weight -> features.2.0.block.0.0.weight; others stay."""
    if name.startswith(("conv_stem.", "bn1.")):
        part, _, kind = name.partition(".")
        return f"features.0.{0 if part == 'conv_stem' else 1}.{kind}"
    if not name.startswith("blocks."):
        return name
    _, number, block, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    inside = PLAIN if number == "0" else EXPANDING
    return f"features.{int(number) + 1}.{block}.block.{inside[part]}.{kind}"


def stage_configs(name: str, width: int) -> list[MBConvConfig]:
    """Of all seven stages; the first five are the encoder's."""
    wide, deep, _, _ = EFFICIENTNETS[name]
    return [MBConvConfig(*stage, width_mult=wide * width / 64, depth_mult=deep) for stage in STAGES]


def stage(config: MBConvConfig, norm: Callable[..., nn.Module]) -> nn.Sequential:
    """A stage's inverted bottlenecks in series; the first has its stride and its change of channels."""
    blocks = []
    for number in range(config.num_layers):
        stride, inputs = (config.stride, config.input_channels) if number == 0 else (1, config.out_channels)
        single = MBConvConfig(config.expand_ratio, config.kernel, stride, inputs, config.out_channels, 1)
        blocks.append(MBConv(single, stochastic_depth_prob=0.0, norm_layer=norm))
    return nn.Sequential(*blocks)


def same_padding(kernel: int) -> list[int]:
    """TensorFlow's "same" for `pad`, at stride 2 and even sides: k - 2 columns and rows, the odd one at the end."""
    before = (kernel - 2) // 2
    after = kernel - 2 - before
    return [before, after, before, after]


def _pad_as_tensorflow(conv: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (F.pad(inputs[0], same_padding(conv.kernel_size[0])),)
