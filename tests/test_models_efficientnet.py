"""The EfficientNet encoders against torchvision's networks and against TensorFlow's definition of "same" padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from omniad.errors import UserError
from omniad.models.any_encoder import make_encoder
from omniad.models.efficientnet import EfficientNetEncoder, torchvision_name
from omniad.models.encoder import check_entries, load_weights


def with_statistics(network: Any) -> Any:
    """As after training: running means and variances that are not the start's."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 0.5 + torch.rand(module.num_features)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "channels"), [("efficientnet_b4", [24, 32, 56, 160]), ("efficientnet_b6", [32, 40, 72, 200])]
)
def test_equals_torchvisions_first_stages(name, channels, tmp_path):
    theirs = with_statistics(getattr(torchvision.models, name)())
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    encoder = EfficientNetEncoder(name)
    load_weights(encoder, tmp_path / "weights.pth")
    images = torch.randn(1, 3, 64, 64)
    found = encoder(images)
    assert [map.shape for map in found] == [(1, c, s, s) for c, s in zip(channels, (32, 16, 8, 4), strict=True)]
    assert encoder.channels == channels
    x = images
    with torch.no_grad():
        for number, part in enumerate(theirs.features[:6]):
            x = part(x)
            if number in (1, 2, 3, 5):
                torch.testing.assert_close(found.pop(0), x)


def test_ported_networks_pad_as_tensorflow_does():
    """Output ceil(n / stride); the total padding is split with the odd row and column at the end."""
    encoder = EfficientNetEncoder("tf_efficientnet_b4", 16)
    strided = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert sorted(conv.kernel_size[0] for conv in strided) == [3, 3, 3, 5]  # stem, stages 2 to 4
    for conv in strided:
        x = torch.randn(1, conv.in_channels, 12, 12)
        total = (math.ceil(12 / 2) - 1) * 2 + conv.kernel_size[0] - 12
        padded = F.pad(x, (total // 2, total - total // 2) * 2)
        expected = F.conv2d(padded, conv.weight, conv.bias, stride=2, groups=conv.groups)
        torch.testing.assert_close(conv(x), expected)
        assert expected.shape[2:] == (6, 6)
    assert all(m.eps == 1e-3 for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(
        m.eps == 1e-5 for m in EfficientNetEncoder("efficientnet_b4", 16).modules() if isinstance(m, nn.BatchNorm2d)
    )


@pytest.mark.parametrize(
    ("timm", "torchvision"),
    [
        ("conv_stem.weight", "features.0.0.weight"),
        ("bn1.running_var", "features.0.1.running_var"),
        ("blocks.0.1.conv_dw.weight", "features.1.1.block.0.0.weight"),
        ("blocks.0.1.bn2.bias", "features.1.1.block.2.1.bias"),
        ("blocks.0.0.se.conv_expand.bias", "features.1.0.block.1.fc2.bias"),
        ("blocks.0.0.conv_pw.weight", "features.1.0.block.2.0.weight"),
        ("blocks.3.2.conv_pw.weight", "features.4.2.block.0.0.weight"),
        ("blocks.3.2.bn2.running_mean", "features.4.2.block.1.1.running_mean"),
        ("blocks.4.0.se.conv_reduce.weight", "features.5.0.block.2.fc1.weight"),
        ("blocks.4.5.conv_pwl.weight", "features.5.5.block.3.0.weight"),
        ("blocks.4.5.bn3.num_batches_tracked", "features.5.5.block.3.1.num_batches_tracked"),
        ("classifier.weight", "classifier.weight"),
    ],
)
def test_timms_names(timm, torchvision):
    assert torchvision_name(timm) == torchvision


def test_a_file_under_timms_names_loads(tmp_path):
    """Every entry renamed back by hand-written rules; what belongs to later stages is left out."""
    encoder = with_statistics(EfficientNetEncoder("tf_efficientnet_b4", 8))
    renamed = {}
    for name, value in encoder.state_dict().items():
        parts = name.split(".")
        if parts[1] == "0":
            renamed[f"{'conv_stem' if parts[2] == '0' else 'bn1'}.{parts[-1]}"] = value
            continue
        stage, block, where = int(parts[1]) - 1, parts[2], ".".join(parts[4:-1])
        order = ["conv_dw", "bn1", "se", "conv_pw", "bn2"] if stage == 0 else []
        order = order or ["conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"]
        places = [f"{k}.{j}" for k in range(4) for j in (0, 1)]
        squeeze = 1 if stage == 0 else 2
        places[2 * squeeze : 2 * squeeze + 2] = ["se"]
        part = {f"{squeeze}.fc1": "se.conv_reduce", f"{squeeze}.fc2": "se.conv_expand"}.get(where)
        part = part or order[places.index(where)]
        renamed[f"blocks.{stage}.{block}.{part}.{parts[-1]}"] = value
    assert len(renamed) == len(encoder.state_dict())
    later = {
        "blocks.5.0.conv_pw.weight": torch.zeros(1),
        "conv_head.weight": torch.zeros(1),
        "bn2.bias": torch.zeros(1),
    }
    torch.save({**renamed, **later}, tmp_path / "tf.pth")
    fresh = EfficientNetEncoder("tf_efficientnet_b4", 8)
    load_weights(fresh, tmp_path / "tf.pth")
    check_entries(encoder.state_dict(), fresh.state_dict(), "fresh")
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_resnets_and_efficientnets_by_name():
    assert make_encoder("resnet18", 8).channels == [8, 16, 32]
    assert make_encoder("tf_efficientnet_b4", 8).channels == [8, 8, 8, 24]
    with pytest.raises(UserError, match="efficientnet_b4"):
        EfficientNetEncoder("resnet18")
