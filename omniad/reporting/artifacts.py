"""What a run folder holds for figures and class tables, read without trusting it: history, scores, curves, examples."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile

from omniad.errors import UserError

T = TypeVar("T")
LARGEST = 2**31  # bytes of an .npz when unpacked: more than any run writes, less than a hostile one could
DAMAGED = (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Example:
    """One kept test image of a class."""

    kind: str  # figure, miss, false_alarm
    name: str  # its path in the data set
    label: int
    score: float
    image: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray  # (S, S) bool
    map: np.ndarray  # (S, S) float32


def read_history(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs and losses of a run's history.csv; None without one (an imported checkpoint)."""
    return _read(folder / "history.csv", _history)


def read_scores(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """Labels and scores of each class's test images; None without scores.csv."""
    return _read(folder / "scores.csv", _scores)


def read_curves(folder: Path) -> dict[str, dict[str, np.ndarray]] | None:
    """Curve -> class -> (2, P) x and y; None without curves.npz."""
    return _read(folder / "curves.npz", _curves)


def read_examples(file: Path) -> list[Example]:
    """The kept examples of one class.

    Raises:
        UserError: the file is not one that `omniad evaluate` wrote.
    """
    return _read(file, _examples) or []


def _read(file: Path, parse: Callable[[Path], T]) -> T | None:
    if not file.exists():
        return None
    try:
        return parse(file)
    except DAMAGED as error:
        what = "train" if file.name == "history.csv" else "evaluate"
        raise UserError(f"{file}: not a file of `omniad {what}` ({error}); {what} the run again") from None


def _history(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with file.open(encoding="utf-8", newline="") as handle:
        lines = [(int(line["epoch"]), float(line["loss"])) for line in csv.DictReader(handle)]
    return np.array([epoch for epoch, _ in lines]), np.array([loss for _, loss in lines])


def _scores(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    classes: dict[str, tuple[list[int], list[float]]] = {}
    with file.open(encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            labels, scores = classes.setdefault(line["class"], ([], []))
            labels.append(int(line["label"]))
            scores.append(float(line["score"]))
    return {name: (np.array(labels), np.array(scores)) for name, (labels, scores) in classes.items()}


def _open(file: Path) -> NpzFile:
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"unpacks to {size / 2**30:.0f} GiB")
    return np.load(file, allow_pickle=False)


def _curves(file: Path) -> dict[str, dict[str, np.ndarray]]:
    curves: dict[str, dict[str, np.ndarray]] = {}
    with _open(file) as stored:
        for key in stored.files:
            name, _, curve = key.rpartition("/")
            curves.setdefault(curve, {})[name] = stored[key].reshape(2, -1)
    return curves


def _examples(file: Path) -> list[Example]:
    with _open(file) as stored:
        images, masks, maps = stored["images"], stored["masks"] > 0, stored["maps"].astype(np.float32)
        facts = [stored[name].tolist() for name in ("kind", "image", "label", "score")]
    if not images.ndim == 4 or not images.shape[:3] == masks.shape == maps.shape:
        raise ValueError("images, masks and maps differ in shape")
    return [
        Example(str(kind), str(name), int(label), float(score), image, mask, map_)
        for kind, name, label, score, image, mask, map_ in zip(*facts, images, masks, maps, strict=True)
    ]
