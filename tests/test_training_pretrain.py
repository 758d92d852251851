"""Pretraining for the miniatures: it learns, it is repeatable, and an encoder loads what it writes."""

import numpy as np
import pytest
import torch

from omniad.config import PretrainSettings
from omniad.miniature import collages
from omniad.models.any_encoder import make_encoder
from omniad.models.encoder import Encoder, load_weights
from omniad.training.pretrain import pretrain

TINY = PretrainSettings(steps=40, batch_size=8, crop_size=32)


@pytest.fixture(scope="module", autouse=True)
def few_specimens():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collages, "SPECIMENS", 1)
        yield


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    return pretrain("resnet18", 16, TINY, 0, file), file


def test_the_loss_falls(pretrained):
    losses, _ = pretrained
    assert len(losses) == TINY.steps
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.4  # a batch differs from the next by 0.2


def test_the_same_seed_gives_the_same_file_and_another_another(pretrained, tmp_path):
    _, file = pretrained
    pretrain("resnet18", 16, TINY, 0, tmp_path / "again.safetensors")
    pretrain("resnet18", 16, TINY.model_copy(update={"steps": 1}), 1, tmp_path / "other.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != file.read_bytes()


def test_the_encoder_loads_it_with_learnt_statistics(pretrained):
    encoder = Encoder("resnet18", 16)
    load_weights(encoder, pretrained[1])
    assert encoder.bn1.running_mean is not None
    assert encoder.bn1.running_mean.abs().max() > 0.01
    maps = encoder(torch.randn(2, 3, 64, 64))
    assert all(torch.isfinite(feature_map).all() and feature_map.std() > 0.01 for feature_map in maps)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "wide_resnet50_2", "tf_efficientnet_b4"])
def test_every_encoder_can_be_pretrained(name, tmp_path):
    file = tmp_path / "weights.safetensors"
    pretrain(name, 8, PretrainSettings(steps=1, batch_size=2, crop_size=32), 0, file)
    load_weights(make_encoder(name, 8), file)
