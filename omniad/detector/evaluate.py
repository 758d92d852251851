"""Evaluate a run on tiles: its test images are scored whole and measured twice.

At the model's size, with maps and masks shrunk as a pack holds them, so that other runs compare: metrics.csv and all
other files of an evaluation. At the images' own size, where a small defect is as large as it is: metrics_full_size.csv.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from omniad.data.images import read_masks, resize
from omniad.data.index import read_index
from omniad.data.masks import decode_mask
from omniad.data.packs import EXACT, PUBLISHED, Pack
from omniad.detector.detector import Detector
from omniad.devices import pick_device
from omniad.evaluation.evaluate import Evaluated, OfClass, evaluate_with, tell_means
from omniad.evaluation.examples import pick_examples
from omniad.files import cannot_write
from omniad.metrics.definitions import METRICS, ClassResult, Measured
from omniad.metrics.from_maps import evaluate_class
from omniad.runs.files import METRICS as METRICS_FILE
from omniad.runs.files import METRICS_FULL_SIZE

SEVERAL_SIZES = "the images have several sizes"

log = logging.getLogger(__name__)


def evaluate_tiled(run_dir: str | Path, device: torch.device | None = None, keep_maps: bool = False) -> None:
    """Score the test images of a run of `omniad fit --tile`, and write what `evaluate` does and metrics_full_size.csv.

    Args:
        run_dir: the run; its images are where they were when it was made.
        device: the GPU when there is one, by default.
        keep_maps: also write the maps, at the model's size, to maps/.

    Raises:
        UserError: a file is missing or damaged, there are no test images, a map is not finite, the disk is full.
    """
    run_dir, device = Path(run_dir), device or pick_device()
    detector = Detector(run_dir, device, threshold=0.0)  # no verdicts are given
    index = read_index(detector.settings.pack_folder.parent / "index.csv")

    def of_class(rows: pd.DataFrame) -> OfClass:
        try:
            with tempfile.TemporaryDirectory(prefix=".full_size.", dir=run_dir) as folder:
                return _evaluate_class(detector, rows, Path(folder))
        except OSError as error:
            raise cannot_write(run_dir, error) from None

    _tell(evaluate_with(of_class, run_dir, index, device, keep_maps), detector)


def _evaluate_class(detector: Detector, rows: pd.DataFrame, folder: Path) -> OfClass:
    """Evaluate one class. Full-size maps and masks may not fit in memory, so they are kept in files in `folder`."""
    number, side, source = len(rows), detector.size, Path(detector.settings.source.folder)
    images = np.empty((number, side, side, 3), np.uint8)
    bits, maps = np.zeros((number, side, side), np.uint8), np.empty((number, side, side), np.float32)
    scores, sizes = np.empty(number, np.float32), []
    files = [source / image for image in rows["image"]]
    with (folder / "maps").open("wb") as map_file, (folder / "masks").open("wb") as mask_file:
        for place, (found, mask) in enumerate(zip(detector.score(files), rows["mask"], strict=True)):
            scores[place] = found.score
            images[place] = resize(Image.fromarray(found.view), side)
            maps[place] = np.asarray(Image.fromarray(found.map).resize((side, side), Image.Resampling.BILINEAR))
            full_mask = np.zeros(found.size, bool)
            if mask:
                exact, published, _ = read_masks(source / mask, side, found.path)
                bits[place] = EXACT * exact + PUBLISHED * published
                full_mask, _ = decode_mask(source / mask, found.path)
            sizes.append(found.size)
            found.full_size_map().tofile(map_file)
            full_mask.tofile(mask_file)
    pack = Pack(folder, rows.reset_index(drop=True), images, bits, "")
    of_all = {"labels": rows["label"].to_numpy(), "scores": scores, "names": rows["image"].tolist()}
    every = np.arange(number)
    result = evaluate_class(maps, pack.masks(every), published_masks=pack.masks(every, PUBLISHED), **of_all)
    if len(set(sizes)) > 1:
        full_size = _images_alone(result)
    else:
        shape = (number, *sizes[0])
        full_maps = np.memmap(folder / "maps", np.float32, "r", shape=shape)
        full_masks = np.memmap(folder / "masks", bool, "r", shape=shape)
        full_size = evaluate_class(full_maps, full_masks, curves=False, **of_all)
    return OfClass([result], maps, pick_examples(pack.index, pack, maps, scores), full_size)


def _images_alone(result: ClassResult) -> ClassResult:
    """A class's result without the metrics of pixels."""
    return replace(result, metrics={name: _no_pixels(measured) for name, measured in result.metrics.items()}, curves={})


def _no_pixels(measured: Measured) -> Measured:
    undefined = [name for name in METRICS if not name.startswith("I-")]
    fractions = measured.fractions | dict.fromkeys(undefined, math.nan)
    return Measured(fractions, measured.reasons | dict.fromkeys(undefined, SEVERAL_SIZES))


def _tell(classes: list[Evaluated], detector: Detector) -> None:
    """The mean metrics at both sizes, a line each."""
    side = detector.size
    results = {
        f"at the images' own size ({METRICS_FULL_SIZE})": [each.full_size for each in classes if each.full_size],
        f"at {side}x{side} pixels ({METRICS_FILE})": [each.draws[0] for each in classes],
    }
    for where, found in results.items():
        tell_means(where, found)
