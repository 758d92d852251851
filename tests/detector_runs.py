"""Small images and small runs for the tests of people's own images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omniad.config import RunSettings, Settings, SourceSettings, TileSettings, to_yaml
from omniad.models import build_model, save_model

SIZE = 64
TINY = Settings.model_validate(
    {
        "data": {"image_size": SIZE},
        "model": {
            "encoder": "resnet18",
            "encoder_width": 8,
            "depths": [1, 1, 1, 1],
            "encoder_weights": "random",
            "tokens": 4,
        },
        "training": {"batch_size": 4},
        "evaluation": {"batch_size": 4, "sigma": 1.5},
    }
)
PATCHES = TINY.model_copy(
    update={"model": TINY.model.model_copy(update={"method": "patch-memory", "memory": 40, "candidates": 400})}
)


def no_speed_test(patch: pytest.MonkeyPatch) -> None:
    """`fit` foretells its time by a few steps of the full-size model, which take seconds; here it tells any time."""
    patch.setattr("omniad.detector.announce.cpu_hours", lambda run, images, scored: 0.01)


def write_image(file: Path, seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """A smooth random RGB image (height, width) as PNG; returns its pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    image.save(file)
    return np.asarray(image)


def write_images(folder: Path, number: int) -> Path:
    for image in range(number):
        write_image(folder / f"{image:03}.png", image)
    return folder


def make_run(folder: Path, tiles: TileSettings | None = None, **model) -> Path:
    """A run folder with random weights."""
    settings = RunSettings(
        dataset="parts",
        run="untrained",
        source=SourceSettings(title="Parts", layout="own", folder="parts"),
        data=TINY.data,
        model=TINY.model.model_copy(update=model),
        training=TINY.training,
        evaluation=TINY.evaluation,
        tiles=tiles,
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(settings))
    torch.manual_seed(0)
    save_model(build_model(settings.model), settings.model, folder / "model.safetensors")
    return folder
