"""The frozen feature extractor: a ResNet's stem and its first three layers, and how an encoder's weights are loaded.

Built from torchvision's blocks, so that entry names are torchvision's (and timm's) and their files load as they are.
Other methods' EfficientNets are in efficientnet.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from omniad.config import known
from omniad.errors import UserError
from omniad.files import reading

SHOWN, LONGEST = 5, 120  # names of each kind of wrong entry in a message, and characters of one
# Encoder -> block, blocks in layers 1-3, width inside a bottleneck per 64 channels.
ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6), 64),
    "resnet50": (Bottleneck, (3, 4, 6), 64),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6), 128),
}


class FrozenEncoder(nn.Module, ABC):
    """Images -> feature maps; without gradients, in eval mode whatever `train` says."""

    channels: list[int]
    """Of the feature maps, finest first."""

    expansion = 1
    """Channels that leave a block for each inside it: 4 in ResNets of bottlenecks."""

    @abstractmethod
    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> feature maps, finest first."""

    @abstractmethod
    def own_entries(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a published file's entries those that belong to this encoder, under its names."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> feature maps, finest first (see `maps`), without gradients."""
        return self.maps(images)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in eval mode: a frozen BatchNorm keeps its statistics."""
        return super().train(False)

    def freeze(self) -> None:
        """Draw the weights, until a file's replace them, and keep gradients from them."""
        initialise_convolutions(self)
        self.requires_grad_(False)
        self.train(False)


class Encoder(FrozenEncoder):
    """A ResNet: images (B, 3, H, W) -> maps at 1/4, 1/8, 1/16."""

    def __init__(self, name: str, width: int = 64):
        """`width`: channels of the stem; 64 is the published network, less scales every channel count.

        Raises:
            UserError: no ResNet has this name.
        """
        super().__init__()
        block, depths, width_per_group = ARCHITECTURES[known(name, ARCHITECTURES, "model.encoder of this method")]
        self.expansion = block.expansion
        self.channels = [width * 2**k * block.expansion for k in range(3)]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = [width, *self.channels]
        layers = [
            resnet_layer(block, depth, inputs[k], width * 2**k, stride=1 if k == 0 else 2, base_width=width_per_group)
            for k, depth in enumerate(depths)
        ]
        self.layer1, self.layer2, self.layer3 = layers
        self.freeze()

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H/4, W/4), (B, 2C, H/8, W/8), (B, 4C, H/16, W/16)], finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            features.append(x)
        return features

    def own_entries(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All but those of the parts that are cut off: layer4, fc."""
        return {name: value for name, value in entries.items() if not name.startswith(("layer4.", "fc."))}


def resnet_layer(
    block: type[BasicBlock] | type[Bottleneck],
    depth: int,
    inputs: int,
    planes: int,
    stride: int = 1,
    base_width: int = 64,
) -> nn.Sequential:
    """Blocks in series: (B, `inputs`, H, W) -> (B, `planes` x expansion, H/stride, W/stride); as torchvision's."""
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != out:
        shortcut = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    rest = [block(out, planes, base_width=base_width) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, planes, stride, shortcut, base_width=base_width), *rest)


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of all convolutions below `module` Kaiming-normal (fan-out), as torchvision's ResNets do."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def load_weights(encoder: FrozenEncoder, file: str | Path) -> None:
    """Fill the encoder from a file of its weights, torchvision's, timm's or .safetensors; code in it never runs.

    Entries of the parts that are cut off are ignored.

    Raises:
        UserError: the file is missing or unreadable, or entries are missing, mis-shaped or unknown (each is named).
    """
    entries = encoder.own_entries(read_entries(file))
    check_entries(encoder.state_dict(), entries, str(file))
    encoder.load_state_dict(entries, strict=False)


def read_entries(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file by name, on the CPU, without running code from it.

    A .pth may hold them bare or under `net`, as the released code saves. Raises UserError when it can't be read so.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with reading(path, "damaged, or not a file that contains only tensors"):
        content = _load(path)
    if isinstance(content, Mapping) and isinstance(content.get("net"), Mapping):
        content = content["net"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path}: contains no state dict (tensors by name), neither at the top level nor under 'net'")
    return dict(content)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("it contains more than tensors, or is not a PyTorch file") from None
    except KeyError:  # its text is a key of torch's own, no reason
        raise ValueError("it is not a PyTorch file") from None


def check_entries(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Compare weights with those that a model has.

    Raises:
        UserError: entries are missing (BatchNorm's batch counters may be), unknown, mis-shaped, of another kind of
            number, or not finite; each is named.
    """
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    unknown = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "wrong shape": shapes}
    if not any(kinds.values()):
        kinds = {"not numbers of the right kind": [name for name in found if not _is_like(found[name], expected[name])]}
    if not any(kinds.values()):
        kinds = {"not finite": [name for name in found if not bool(torch.isfinite(found[name].float()).all())]}
    problems = [
        f"{len(names)} {kind}: {', '.join(name[:LONGEST] for name in names[:SHOWN])}{', ...' if names[SHOWN:] else ''}"
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise UserError(f"{where}: not the weights of this model; " + "; ".join(problems))


def _is_like(value: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor holds numbers that can stand for another's: floats of any precision, or whole numbers."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return plain and not value.is_complex() and value.is_floating_point() == wanted.is_floating_point()
