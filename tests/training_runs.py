"""A tiny run for the tests of training: a few textured images in MVTec-AD's layout, packed at 64 pixels."""

import csv
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omniad.config import RunSettings, Settings, load_settings, merge, run_settings
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.training.train import train

TINY = {"encoder": "resnet18", "encoder_width": 8, "depths": [1, 1, 1, 1], "encoder_weights": "random", "tokens": 4}
CPU = torch.device("cpu")
PATIENCE_S = 60


def tiles_run(folder: Path) -> RunSettings:
    """Five epochs of two steps; one test image is anomalous."""
    rng = np.random.default_rng(0)
    names = [*(f"train/good/{i:03}" for i in range(7)), "test/good/000", "test/hole/000", "ground_truth/hole/000_mask"]
    for name in names:
        file = folder / "raw" / "tile" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((64, 64), np.uint8) if "mask" in name else rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels[20:30, 20:30] = 255 if "mask" in name else pixels[20:30, 20:30] // (4 if "hole" in name else 1)
        Image.fromarray(pixels).save(file)
    overlay = {
        "datasets": ["tiles"],
        "sources": {"tiles": {"title": "Tiles", "layout": "mvtec", "folder": str(folder / "raw")}},
        "data": {"prepared": str(folder), "image_size": 64},
        "model": TINY,
        "training": {"epochs": 5, "batch_size": 3},
    }
    settings = Settings.model_validate(merge(load_settings().model_dump(), overlay))
    run = run_settings(settings, "tiles", "default")
    write_index(run.source, folder / "tiles" / "index.csv")
    write_pack(run.source, folder / "tiles" / "index.csv", run.pack_folder, 64)
    return run


def changed(run: RunSettings, **training: Any) -> RunSettings:
    """The run with other training settings."""
    return run.model_copy(update={"training": run.training.model_copy(update=training)})


def start_training(
    run: RunSettings, out: Path, before: Callable[..., None] | None = None, *arguments: Any, **environment: str
) -> Any:
    """A process that trains; `before(*arguments)` is called in it first. Cheap: it is forked with torch in memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omniad.training.train", "omniad.training.epoch_metrics"])
    process = context.Process(target=_train, args=(run, out, before, arguments, environment))
    process.start()
    return process


def _train(run: RunSettings, out: Path, before: Any, arguments: tuple, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before is not None:
        before(*arguments)
    train(run, 0, out, CPU)


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same(out: Path, expected: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert history(out) == history(expected)


def wait_for(condition, process=None) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.is_alive(), "the training ended before it could be stopped"
        time.sleep(0.002)


def wait_until_it_trains(process, out: Path) -> None:
    lock = out / ".lock"
    wait_for(lambda: not process.is_alive() or (lock.exists() and lock.read_text().endswith(f" {process.pid}")))
