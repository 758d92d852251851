"""The worst images of each class as small pictures inside the HTML report: what a run missed, and its false alarms."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

from omniad.errors import UserError
from omniad.reporting.figures.qualitative import COLORS
from omniad.runs.artifacts import Example, example_files, read_examples
from omniad.runs.finished import FinishedRun

log = logging.getLogger(__name__)
SIDE = 128  # pixels of one tile at most
KINDS = {
    "miss": "Missed: anomalous images with the lowest scores",
    "false_alarm": "False alarms: normal images with the highest scores",
}
INFERNO = (np.asarray(matplotlib.colormaps[COLORS](np.arange(256)))[:, :3] * 255).round().astype(np.uint8)  # (256, 3)


@dataclass(frozen=True)
class Picture:
    """An image, its truth, its map and the map over it, side by side, as a data address."""

    name: str
    score: float
    source: str


@dataclass(frozen=True)
class ClassPictures:
    """One class under one run: its kept examples by kind."""

    run: FinishedRun
    pictures: dict[str, list[Picture]]
    problem: str = ""  # why there are none


def class_pictures(
    runs: Iterable[FinishedRun], most: dict[tuple[str, str], int]
) -> dict[str, dict[str, list[ClassPictures]]]:
    """Data set -> class -> its pictures, a run each (its first seed).

    Args:
        most: how many of each kind to show of (data set, run); 1 of any other.
    """
    found: dict[str, dict[str, list[ClassPictures]]] = {}
    first = {(run.dataset, run.run): run for run in reversed(list(runs))}
    for key, run in sorted(first.items(), key=lambda item: (item[0] not in most, item[0])):
        for file in example_files(run.folder):
            try:
                shown = ClassPictures(run, _pictures(read_examples(file), most.get(key, 1)))
            except UserError as error:
                log.warning("Left out of the report: %s", error)
                shown = ClassPictures(run, {}, str(error))
            found.setdefault(run.dataset, {}).setdefault(file.stem, []).append(shown)
    return {dataset: dict(sorted(classes.items())) for dataset, classes in sorted(found.items())}


def _pictures(examples: list[Example], most: int) -> dict[str, list[Picture]]:
    low = min((float(example.map.min()) for example in examples), default=0.0)
    high = max((float(example.map.max()) for example in examples), default=1.0)
    return {
        kind: [
            Picture(example.name, example.score, data_address(webp(strip(example, low, high)), "webp"))
            for example in [example for example in examples if example.kind == kind][:most]
        ]
        for kind in KINDS
    }


def strip(example: Example, low: float, high: float) -> Image.Image:
    """Image, truth, map (`low` dark, `high` bright) and overlay in a row; at most SIDE pixels high."""
    scaled = np.clip((example.map - low) / max(high - low, 1e-12), 0, 1)  # (S, S)
    heat = INFERNO[(scaled * 255).astype(np.uint8)]  # (S, S, 3)
    grey = example.image.mean(axis=2, keepdims=True)
    strength = 0.85 * scaled[..., None]
    overlay = (grey * (1 - strength) + heat * strength).astype(np.uint8)
    edge = example.mask & np.logical_not(ndimage.binary_erosion(example.mask))
    overlay[edge] = 255
    truth = np.repeat(np.where(example.mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    side = min(SIDE, example.image.shape[0])
    tiles = [Image.fromarray(tile).resize((side, side)) for tile in (example.image, truth, heat, overlay)]
    row = Image.new("RGB", (4 * side + 6, side), "white")
    for place, tile in enumerate(tiles):
        row.paste(tile, (place * (side + 2), 0))
    return row


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=75)
    return buffer.getvalue()


def data_address(picture: bytes, kind: str) -> str:
    """A picture inside a page."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
