"""The patch memory: its map and score against literal ones, what it takes for usual, and its graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance import AllOf, images
from scipy.spatial.distance import cdist

from omniad.config import ModelSettings
from omniad.models import build_model
from omniad.models.coreset import Sample
from omniad.models.patch_memory import GRID, PatchMemory, mean_map


def prepared(batch: torch.Tensor, **changes) -> PatchMemory:
    torch.manual_seed(0)
    settings = {"method": "patch-memory", "encoder": "efficientnet_lite0", "memory": 60, "candidates": 400, **changes}
    model = build_model(ModelSettings(**settings)).eval()
    assert isinstance(model, PatchMemory)
    with torch.no_grad():
        for _ in model.prepare(AllOf([model.encode(part) for part in batch.split(3)]), {}):
            pass
    return model


def test_the_map_is_the_mean_of_the_scales_distances_in_units():
    model = prepared(images())
    features = model.encode(images(6)[4:])
    expected = torch.zeros(2, 96, 96, dtype=torch.double)
    for scale, (level, training) in enumerate(zip(features, model.encode(images()), strict=True)):
        mean = training.mean(dim=(0, 2, 3), keepdim=True)
        deviation = training.std(dim=(0, 2, 3), keepdim=True, unbiased=False)
        padded = F.pad((level - mean) / deviation, (1, 1, 1, 1))
        patches = padded.unfold(2, 3, 1).unfold(3, 3, 1).mean(dim=(4, 5))  # (B, D, h, w)
        table = cdist(patches.permute(0, 2, 3, 1).flatten(0, 2), model.get_buffer(f"memories.{scale}.entries"))
        distances = table.min(axis=1).reshape(2, 1, *level.shape[2:]) / model.unit[scale].item()
        expected += F.interpolate(torch.from_numpy(distances), size=(96, 96), mode="bilinear")[:, 0] / 2
    torch.testing.assert_close(model.anomaly_maps(features, 96).double(), expected, rtol=1e-3, atol=1e-3)


def test_the_unit_is_what_good_patches_are_from_other_images_patches():
    model = prepared(images(), memory=100_000, candidates=100_000)  # everything is kept
    for scale, patches in enumerate(model.patches(model.encode(images()))):
        others = [
            cdist(own, torch.cat([*patches[:number], *patches[number + 1 :]])).min(axis=1)
            for number, own in enumerate(patches)
        ]
        assert model.unit[scale].item() == pytest.approx(np.mean(others), rel=1e-3)


def test_usual_is_a_map_of_means():
    places = torch.tensor([0, 0, 5, 15])  # of 4 x 4
    sample = Sample(torch.zeros(4, 1), places, torch.zeros(4), positions=16, seed=0)
    found = mean_map(torch.tensor([1.0, 3.0, 10.0, 6.0]), sample)
    assert found.shape == (GRID, GRID)
    assert found[0, 0].item() == pytest.approx(2, abs=0.05)  # the mean of 1 and 3, far from the other places
    assert found[-1, -1].item() == pytest.approx(6, abs=0.05)
    assert found[0, -1].item() == pytest.approx(5, abs=0.05)  # nothing was seen here: the mean of all
    assert found.argmax() == found[:16, :16].argmax() // 16 * GRID + found[:16, :16].argmax() % 16


def test_the_score_is_the_largest_excess_over_the_usual():
    model = prepared(images())
    model.usual.zero_()
    model.usual[: GRID // 2] = 5.0
    maps = torch.zeros(2, 64, 64)
    maps[0, 10, 10], maps[0, 50, 10] = 5.5, 2.0
    maps[1, 10, 10] = 8.0
    assert model.image_scores(maps).tolist() == [2.0, 3.0]


def test_constant_images_and_a_single_one_give_finite_maps():
    for batch in (torch.zeros(3, 3, 64, 64), images(1)):
        model = prepared(batch)
        maps = model.anomaly_maps(model.encode(images(2)), 64)
        assert torch.isfinite(maps).all()
        assert torch.isfinite(model.image_scores(maps)).all()


@pytest.mark.slow
def test_its_graph_computes_the_same(tmp_path):
    from omniad.config import load_settings, run_settings, to_yaml
    from omniad.detector.export import TOLERANCE, export
    from omniad.models import save_model

    model = prepared(images())
    run = run_settings(load_settings(), "mvtec", "default")
    run = run.model_copy(update={"model": model.settings, "data": run.data.model_copy(update={"image_size": 96})})
    (tmp_path / "config.yaml").write_text(to_yaml(run))
    save_model(model, model.settings, tmp_path / "model.safetensors")
    assert export(tmp_path, tmp_path / "detector.onnx") <= TOLERANCE
