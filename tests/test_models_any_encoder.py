"""Methods on encoders whose maps are not C, 2C and 4C channels wide, on decoders of other widths, and standardised."""

from __future__ import annotations

from typing import Any

import conformance
import numpy as np
import pytest
import torch
from conformance import CHECKS, AllOf, Case, images
from training_runs import CPU, changed, tiles_run

from omniad.config import ModelSettings, TrainingSettings
from omniad.data.packs import normalise, open_pack
from omniad.detector.export import export
from omniad.errors import UserError
from omniad.models import build_model, load_model
from omniad.models.checkpoint import METHODS
from omniad.models.decoder import PatchExpand
from omniad.training.train import train

LITE = {"encoder": "efficientnet_lite0", "encoder_width": 16}  # maps of 8, 16 and 32 channels at 1/4, 1/8, 1/16
SMALL = {"tokens": 4, "depths": [1, 1, 1, 1]}
WIDE = {**LITE, **SMALL, "widths": [64, 32, 24, 16], "heads": 4, "standardise": True}
STANDARDISED = Case(WIDE, {"learning_rate": 0.003}, steps=150)
OTHERS = {
    "omni-ad": Case({**LITE, **SMALL}),
    "mambaad": Case({**LITE, **SMALL, "method": "mambaad"}),
    "uniad": Case({**LITE, "method": "uniad"}),
    "rlr": Case({**LITE, "method": "rlr", "jitter": 4.0}),
    "simplenet": Case({**LITE, "method": "simplenet"}),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_standardised_it_passes_what_every_method_passes(check, tmp_path):
    check(STANDARDISED, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_shapes_devices_and_gradients_on_efficientnet_lite(name, tmp_path):
    conformance.check_maps_and_scores_are_finite_and_shaped(OTHERS[name], tmp_path)
    conformance.check_everything_follows_the_device(OTHERS[name], tmp_path)
    conformance.check_gradients_only_where_trained(OTHERS[name], tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_at_full_width_a_method_runs_or_names_the_encoders_it_takes(method):
    torch.manual_seed(0)
    jitter = 0.2 if method == "dinomaly" else 20.0  # a dropout there
    settings = ModelSettings(method=method, encoder="efficientnet_lite0", depths=[1, 1, 1, 1], jitter=jitter)
    try:
        model = build_model(settings)
    except UserError as error:
        assert method in ("rd4ad", "destseg", "diad", "dinomaly")
        assert "model.encoder of this method: unknown 'efficientnet_lite0'; choose from: " in str(error)
    else:
        assert torch.isfinite(model.eval().anomaly_maps(model.encode(images(1)), 96)).all()
        assert (list(model.never_run()) == []) == (method != "mambaad")  # its scan orders are counted in print


@pytest.mark.parametrize("encoder", ["efficientnet_lite2", "tf_efficientnet_b4", "resnet18"])
def test_reconstructions_have_the_encoders_shapes(encoder):
    torch.manual_seed(0)
    model = build_model({**SMALL, "encoder": encoder, "widths": [128, 64, 32, 16]}).eval()
    features, reconstructions = model(torch.randn(1, 3, 64, 64))
    assert [f.shape[1:] for f in features] == [r.shape[1:] for r in reconstructions]
    assert [f.shape[2] for f in features] == [16, 8, 4]


def test_widths_that_follow_are_what_they_are_when_set():
    """ResNets' own widths, spelled out, change neither weights nor names."""
    models = []
    for widths in ([], [512, 256, 128, 64]):
        torch.manual_seed(0)
        models.append(build_model({**SMALL, "encoder": "resnet18", "widths": widths}).state_dict())
    assert models[0].keys() == models[1].keys()
    assert not any("restore" in name or "project" in name or "standardise" in name for name in models[0])
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [64, 32, 16, 12]}, "8 heads do not divide the 12 channels of a stage"),
        ({"widths": [64, 32, 16]}, "must be four numbers"),
        ({"widths": [64, 32, 16, 0]}, "widths.3"),
    ],
)
def test_widths_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        build_model({**SMALL, "encoder": "resnet18", **changes})


def test_patch_expand_is_its_formula():
    """Position (2i + a, 2j + b) is the part (a, b) of the linear layer's output at (i, j), normalised."""
    torch.manual_seed(0)
    expand = PatchExpand(6, 5)
    x = torch.randn(2, 6, 3, 4)
    out = expand(x)
    assert out.shape == (2, 5, 6, 8)
    for i, j, a, b in ((0, 0, 0, 0), (1, 2, 1, 0), (2, 3, 0, 1)):
        parts = (expand.linear.weight @ x[1, :, i, j]).reshape(2, 2, 5)
        part = parts[a, b]
        expected = (part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(out[1, :, 2 * i + a, 2 * j + b], expected)


def literal_standardised(model: Any, maps: list[torch.Tensor], training: list[torch.Tensor]) -> list[torch.Tensor]:
    """numpy's mean and deviation of each channel over all images and positions."""
    standardised = []
    for level, all_images in zip(maps, training, strict=True):
        values = all_images.double().numpy()
        mean, deviation = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
        standardised.append(torch.from_numpy((level.double().numpy() - mean[:, None, None]) / deviation[:, None, None]))
    return standardised


def test_standardised_in_batches_it_is_numpys_mean_and_deviation():
    torch.manual_seed(0)
    model: Any = build_model(WIDE)
    maps = model.encode(images(5))

    batches = AllOf([[level[i : i + 2] for level in maps] for i in (0, 2, 4)])
    assert [share for share, _ in model.prepare(batches, {})] == pytest.approx([0.4, 0.8, 1.0])
    for found, expected in zip(model.standardise(maps), literal_standardised(model, maps, maps), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert model(images(5))[0][1].std().item() == pytest.approx(1.0, abs=1e-3)


def test_a_channel_that_is_constant_stays_finite():
    torch.manual_seed(0)
    model: Any = build_model(WIDE)
    maps = [torch.full((2, c, s, s), 3.0) for c, s in ((8, 16), (16, 8), (32, 4))]
    list(model.prepare(AllOf([maps]), {}))
    assert all(torch.equal(level, torch.zeros_like(level)) for level in model.standardise(maps))
    other = model.standardise([level + 1 for level in maps])
    assert all(torch.equal(level, torch.ones_like(level)) for level in other)


def test_loss_and_map_are_of_the_standardised_features():
    torch.manual_seed(0)
    model: Any = build_model(WIDE).eval()
    maps = model.encode(images(4))
    list(model.prepare(AllOf([maps]), {}))
    targets = [level.float() for level in literal_standardised(model, maps, maps)]
    outputs = model.decoder(model.neck(targets))
    loss = sum(((t - o) ** 2).mean() for t, o in zip(targets, outputs, strict=True))
    torch.testing.assert_close(model.loss(maps, TrainingSettings(), 0.0), loss, rtol=1e-4, atol=1e-5)
    total = torch.zeros(4, 96, 96)
    for target, output in zip(targets, outputs, strict=True):
        cosine = (target * output).sum(1) / (target.norm(dim=1) * output.norm(dim=1))
        distance = torch.nn.functional.interpolate(1 - cosine[:, None], (96, 96), mode="bilinear", align_corners=True)
        total += distance[:, 0] / 9
    torch.testing.assert_close(model.anomaly_maps(maps, 96), total, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run on standardised features, and its settings."""
    folder = tmp_path_factory.mktemp("lite")
    run = changed(tiles_run(folder), epochs=2)
    model = ModelSettings(**{**WIDE, "encoder_weights": "random"})
    run = run.model_copy(update={"model": model})
    train(run, 0, folder / "run", CPU)
    return run, folder / "run"


def test_a_run_keeps_what_it_standardises_with(finished):
    run, folder = finished
    model: Any = load_model(folder)
    pack = open_pack(run.pack_folder)
    rows = np.flatnonzero(pack.index["split"] == "train")
    maps = [level.half().float() for level in model.encode(normalise(pack.images[rows]))]
    for found, expected in zip(model.standardise(maps), literal_standardised(model, maps, maps), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_an_exported_graph_standardises_too(finished, tmp_path):
    _, folder = finished
    assert export(folder, tmp_path / "model.pt2", format="pt2") < 1e-4
