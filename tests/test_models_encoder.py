"""The encoder against torchvision's own networks, and loading of weights."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from omniad.config import ModelSettings
from omniad.errors import UserError
from omniad.models import OmniAD
from omniad.models.encoder import ARCHITECTURES, Encoder, load_weights


def torchvision_model(architecture: str) -> torch.nn.Module:
    torch.manual_seed(1)
    model = torchvision.models.get_model(architecture)
    for name, buffer in model.named_buffers():  # statistics that are not the start's zeros and ones
        if name.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "suffix"), [("resnet34", ".pth"), ("resnet34", ".safetensors"), ("wide_resnet50_2", ".pth")]
)
def test_features_are_torchvisions(tmp_path, name, suffix):
    theirs = torchvision_model(name)
    file = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(theirs.state_dict(), file)
    encoder = Encoder(name)
    load_weights(encoder, file)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, ["layer1", "layer2", "layer3"])(images)
    features = encoder(images)
    for found, layer, channels, side in zip(features, expected.values(), encoder.channels, (16, 8, 4), strict=True):
        assert found.shape == (2, channels, side, side)
        torch.testing.assert_close(found, layer)


def test_frozen_and_in_eval_mode_even_in_training():
    model = OmniAD(ModelSettings(encoder="resnet18", encoder_width=8, depths=[1, 1, 1, 1])).train()
    assert model.neck.training
    assert not any(module.training for module in model.encoder.modules())
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    features, reconstructions = model(torch.randn(2, 3, 64, 64))
    torch.stack([reconstruction.mean() for reconstruction in reconstructions]).sum().backward()
    assert not any(feature.requires_grad for feature in features)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_width_scales_every_channel(name):
    full, small = Encoder(name).state_dict(), Encoder(name, width=16).state_dict()
    for key, value in full.items():
        channels = [size if i >= 2 or size == 3 else size // 4 for i, size in enumerate(value.shape)]
        assert list(small[key].shape) == channels, key


def test_weights_problems_are_all_named(tmp_path):
    entries = Encoder("resnet18", width=8).state_dict()
    entries["layer1.0.extra"] = entries.pop("layer1.0.conv1.weight")
    entries["bn1.weight"] = torch.zeros(3)
    entries["layer4.0.conv1.weight"] = torch.zeros(1)  # cut off, so ignored
    torch.save(entries, tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        load_weights(Encoder("resnet18", width=8), tmp_path / "weights.pth")
    message = str(error.value)
    assert "weights.pth" in message and "\n" not in message
    assert "1 missing: layer1.0.conv1.weight" in message
    assert "1 unknown: layer1.0.extra" in message
    assert "bn1.weight (3,) instead of (8,)" in message
    assert "layer4" not in message


def test_old_files_without_batch_counters_load(tmp_path):
    theirs = Encoder("resnet18", width=8)
    entries = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(entries, tmp_path / "old.pth")
    encoder = Encoder("resnet18", width=8)
    load_weights(encoder, tmp_path / "old.pth")
    assert torch.equal(encoder.conv1.weight, theirs.conv1.weight)


class Payload:
    """Would run code on loading."""

    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("content", ["nothing", "text", "code", "list"])
def test_unreadable_files(tmp_path, capsys, content):
    file = tmp_path / "weights.pth"
    if content == "text":
        file.write_text("not a checkpoint")
    elif content != "nothing":
        torch.save({"code": {"conv1.weight": Payload()}, "list": [torch.zeros(1)]}[content], file)
    with pytest.raises(UserError, match=r"weights\.pth: "):
        load_weights(Encoder("resnet18", width=8), file)
    assert "code ran" not in capsys.readouterr().out
