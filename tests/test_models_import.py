"""Import of checkpoints of the released code, made from the names and shapes that it writes."""

from __future__ import annotations

import csv
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from omniad.errors import UserError
from omniad.models import load_model
from omniad.models.import_released import import_released
from omniad.runs.provenance import load_run_settings

NAMES = Path(__file__).parent / "released_state_dict_1-1-1-1.csv"


def released_checkpoint(depths: tuple[int, ...] = (1, 1, 1, 1)) -> dict[str, torch.Tensor]:
    """Random tensors by the released names; deeper stages repeat their first block."""
    torch.manual_seed(0)
    checkpoint = {}
    with NAMES.open(newline="") as file:
        for row in csv.DictReader(file):
            shape = [int(size) for size in row["shape"].split("x") if size]
            stage = re.match(r"net_s\.layers_up\.(\d)\.blocks\.0\.", row["name"])
            for block in range(depths[int(stage[1])] if stage else 1):
                name = re.sub(r"(layers_up\.\d\.blocks)\.0\.", rf"\1.{block}.", row["name"])
                scale = 1 / max(1, prod(shape[1:])) ** 0.5
                checkpoint[name] = torch.rand(shape) + 0.5 if "running_var" in name else torch.randn(shape) * scale
                if name.endswith("num_batches_tracked"):
                    checkpoint[name] = torch.tensor(5)
    return checkpoint


@pytest.mark.parametrize(("depths", "wrapped"), [((1, 1, 1, 1), False), ((1, 3, 2, 2), True)])
def test_import_any_depths(tmp_path, depths, wrapped):
    checkpoint = released_checkpoint(depths)
    torch.save({"net": checkpoint, "epoch": 3} if wrapped else checkpoint, tmp_path / "net.pth")
    import_released(tmp_path / "net.pth", tmp_path / "run", "none")
    settings = load_run_settings(tmp_path / "run")
    assert settings.run == "imported"
    assert (settings.model.variant, settings.model.projection) == ("released", "none")
    assert (settings.model.encoder, settings.model.tokens, settings.model.heads) == ("resnet34", 64, 8)
    assert settings.model.depths == list(depths)
    model: Any = load_model(tmp_path / "run")
    assert len(model.state_dict()) == len(checkpoint)
    last = f"net_s.layers_up.1.blocks.{depths[1] - 1}.blocks.0."
    block = model.decoder.stages[1].blocks[-1]
    pairs = [
        (model.encoder.layer3[5].conv2.weight, "net_t.layer3.5.conv2.weight"),
        (model.neck.down1[0].weight, "Neck.conv1.weight"),
        (model.neck.lateral2[0].weight, "Neck.conv21.weight"),
        (model.neck.down2[1].running_mean, "Neck.bn2.running_mean"),
        (model.neck.lateral3[1].weight, "Neck.bn31.weight"),
        (model.neck.fuse[0].bias, "Neck.convf.bias"),
        (model.neck.bottlenecks[2].conv3.weight, "Neck.bn_layer.2.conv3.weight"),
        (model.decoder.stages[3].expand.linear.weight, "net_s.layers_up.3.upsample.expand.weight"),
        (block.global_branch.first.tokens, last + "toProxy.learnable_q"),
        (block.global_branch.first.bias, last + "toProxy.pe2"),
        (block.global_branch.first.query.weight, last + "toProxy.q.weight"),
        (block.global_branch.first.key_value.weight, last + "toProxy.kv_x.weight"),
        (block.global_branch.second.tokens, last + "toProxy.learnable_kv"),
        (block.global_branch.second.bias, last + "toProxy.pe1"),
        (block.global_branch.second.query.weight, last + "toProxy.q_2.weight"),
        (block.global_branch.second.key_value.weight, last + "toProxy.kv_y.weight"),
        (block.local_branch.conv3[0].weight, last + "conv33.dconv.0.weight"),
        (block.local_branch.conv5[2].weight, last + "conv55.pconv.0.weight"),
        (block.local_branch.merge[0].weight, last + "mlp.0.weight"),
        (block.mlp.linear1.weight, last + "l.weight"),
        (block.mlp.linear2.weight, last + "l2.weight"),
    ]
    for ours, name in pairs:
        assert torch.equal(ours, checkpoint[name]), name
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(model(images)[1][0], model(images)[1][0])


def test_random_projection_repeats_with_its_seed(tmp_path):
    torch.save(released_checkpoint(), tmp_path / "net.pth")
    import_released(tmp_path / "net.pth", tmp_path / "run", "random")
    images, finest = torch.randn(1, 3, 64, 64), []
    for seed in (1, 1, 2):
        model = load_model(tmp_path / "run")
        model.seed_draws(seed)
        with torch.no_grad():
            finest.append(model(images)[1][0])
    assert torch.equal(finest[0], finest[1])
    assert not torch.equal(finest[0], finest[2])


def test_every_wrong_entry_is_named(tmp_path):
    checkpoint = released_checkpoint((1, 2, 1, 1))
    removed = ["Neck.bn2.running_mean", "net_s.layers_up.1.blocks.1.blocks.0.l.bias"]
    for name in removed:
        del checkpoint[name]
    checkpoint["net_s.head.weight"] = torch.zeros(2)
    checkpoint["net_s.layers_up.2.blocks.0.blocks.0.toProxy.pe1"] = torch.zeros(1, 8, 1, 36)
    torch.save(checkpoint, tmp_path / "net.pth")
    with pytest.raises(UserError) as error:
        import_released(tmp_path / "net.pth", tmp_path / "run", "none")
    message = str(error.value)
    assert "net.pth" in message and "\n" not in message
    assert "2 missing: " in message and all(name in message for name in removed)
    assert "1 unknown: net_s.head.weight" in message
    assert "toProxy.pe1 (1, 8, 1, 36) instead of (1, 8, 1, 64)" in message
    assert not (tmp_path / "run").exists()


def test_other_networks_and_used_folders_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no entry starts with net_t\. or Neck\. or net_s\."):
        import_released(tmp_path / "other.pth", tmp_path / "run", "none")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="already holds a run"):
        import_released(tmp_path / "other.pth", tmp_path, "none")
