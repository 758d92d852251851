"""Presets: data that `fit` and `settings` read; the fast one on small images, from end to end."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from detector_runs import write_image, write_images
from PIL import Image

from omniad.cli import main
from omniad.config import load_settings, run_settings
from omniad.detector.detector import Detector
from omniad.detector.fit import fit
from omniad.detector.presets import FOLDER, PRESETS, choose
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.checkpoint import METHODS
from omniad.runs.provenance import load_run_settings


def methods(preset: str) -> list[str]:
    return list(yaml.safe_load((FOLDER / f"{preset}.yaml").read_text())["methods"])


@pytest.mark.parametrize(("preset", "method"), [(preset, name) for preset in PRESETS for name in methods(preset)])
def test_every_method_of_a_preset_can_be_built(preset, method):
    settings = choose(preset, method).settings
    assert settings.model.method == method
    with torch.device("meta"):
        build_model(settings.model)


def test_every_method_is_in_a_preset():
    assert {name for preset in PRESETS for name in methods(preset)} == set(METHODS)


@pytest.mark.parametrize("method", [name for name in methods("paper") if name != "omni-ad"])
def test_the_papers_recipes_are_those_of_its_runs(method):
    of_preset = choose("paper", method).settings
    of_run = run_settings(load_settings(), "mvtec", method)
    assert of_preset.model == of_run.model
    assert of_preset.evaluation == of_run.evaluation
    elsewhere = {"epochs": of_run.training.epochs, "textures": of_run.training.textures}  # by steps; not fetched
    assert of_preset.training.model_copy(update=elsewhere) == of_run.training


def test_the_papers_own_model_is_the_default():
    assert choose("paper").settings == choose("paper", "omni-ad").settings == load_settings()


def test_files_change_single_settings_of_a_preset(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("model: { memory: 123 }")
    settings = choose("fast", "", file).settings
    assert (settings.model.memory, settings.model.method) == (123, "patch-memory")


def test_typos_name_what_there_is():
    with pytest.raises(UserError, match="preset: unknown 'fats'; choose from: fast, paper"):
        choose("fats")
    with pytest.raises(UserError, match="method of the preset 'fast': unknown 'rd4ad'; choose from: patch-memory"):
        choose("fast", "rd4ad")


def test_settings_shows_a_preset(capsys):
    assert main(["settings", "--preset", "fast", "--method", "padim"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["model"]["method"], shown["model"]["encoder"]) == ("padim", "efficientnet_lite0")
    assert main(["settings", "--method", "padim"]) == 1
    assert "--method needs --preset" in capsys.readouterr().err


def test_fit_is_fast_by_default_and_finds_a_defect(tmp_path, caplog):
    """The whole way with random weights: no package of weights is needed."""
    caplog.set_level(logging.INFO)
    small = tmp_path / "small.yaml"
    small.write_text("data: { image_size: 64 }\nmodel: { encoder_weights: random, memory: 50 }")
    write_images(tmp_path / "bolts", 8)
    fit(tmp_path / "bolts", tmp_path / "run", config=[small])
    assert load_run_settings(tmp_path / "run").model.method == "patch-memory"
    told = caplog.text
    assert (
        "A memory of good patches on EfficientNet-Lite0 features, for any machine: 8 good images of 1 product: about"
        in told
    )
    assert "the highest score of 8 good images, each scored as if it were new" in told
    assert "on this CPU" in told and "--preset paper" in told
    pixels = write_image(tmp_path / "test/good.png", seed=0)
    pixels = pixels.copy()
    pixels[16:48, 16:48] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(pixels).save(tmp_path / "test/spoiled.png")
    good, spoiled = Detector(tmp_path / "run", "cpu").score(tmp_path / "test")
    assert (good.verdict, spoiled.verdict) == ("good", "anomalous")
    detector = Detector(tmp_path / "run", "cpu")
    assert detector.threshold is not None
    outlined = spoiled.map - detector.expected > detector.threshold  # the overlay's white line is around it
    assert outlined[16:48, 16:48].any()
    assert not (good.map - detector.expected > detector.threshold).any()
    assert spoiled.map[16:48, 16:48].mean() > spoiled.map.mean()
    assert json.loads((tmp_path / "run/threshold.json").read_text())["images"] == 8


def test_settings_and_a_preset_are_not_mixed(tmp_path):
    with pytest.raises(UserError, match="either settings, or a preset"):
        fit(tmp_path, tmp_path / "run", settings=choose("fast", "").settings, method="padim")
