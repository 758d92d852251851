"""Write a run folder's history, test metrics by epoch, scores, curves and examples, and read them, untrusted."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile

from omniad.files import atomic_write, read_csv, reading, write_csv
from omniad.metrics.definitions import DEFINITIONS, METRICS
from omniad.runs.files import (
    CURVES,
    EPOCHS,
    EPOCHS_COLUMNS,
    EXAMPLES,
    HISTORY,
    HISTORY_COLUMNS,
    SCORES,
    SCORES_COLUMNS,
)

T = TypeVar("T")
LARGEST = 2**31  # bytes of an .npz when unpacked: more than any run writes, less than a hostile one could
MOST_EPOCHS = 10**7
MOST_PIXELS = 4096  # an image's side
HIGHEST = 1e30  # of a loss or score: figures draw no more
HALF = 65504  # the largest number in half precision


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


def write_history(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write history.csv: a row for each epoch."""
    write_csv(folder / HISTORY, HISTORY_COLUMNS, rows)


def write_epochs(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write epochs.csv: the means of the test metrics after some epochs, fractions."""
    write_csv(folder / EPOCHS, EPOCHS_COLUMNS, rows)


def write_scores(folder: Path, rows: Iterable[tuple[str, str, int, float]]) -> None:
    """Write scores.csv: each test image's path, class, label and score."""
    with atomic_write(folder / SCORES) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SCORES_COLUMNS)
        # Nine digits tell every float32 from its neighbours.
        writer.writerows((image, class_, label, f"{score:.9g}") for image, class_, label, score in rows)


def write_curves(folder: Path, curves: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write curves.npz: class -> curve -> x and y (2, P)."""
    stored = {f"{name}/{curve}": xy for name, of_class in curves.items() for curve, xy in of_class.items()}
    with atomic_write(folder / CURVES, "wb") as file:
        np.savez(file, allow_pickle=False, **{key: xy.astype(np.float32) for key, xy in stored.items()})


def write_examples(folder: Path, class_: str, examples: Sequence[Example]) -> None:
    """Write examples/<class>.npz; maps are kept in half precision."""
    with atomic_write(folder / EXAMPLES / f"{class_}.npz", "wb") as file:
        np.savez_compressed(
            file,
            images=np.stack([one.image for one in examples]),
            masks=np.stack([one.mask for one in examples]).astype(np.uint8),
            maps=np.clip(np.stack([one.map for one in examples]), -HALF, HALF).astype(np.float16),
            kind=np.array([one.kind for one in examples], str),
            image=np.array([one.name for one in examples], str),
            label=np.array([one.label for one in examples]),
            score=np.array([one.score for one in examples], np.float32),
        )


def example_files(folder: Path) -> list[Path]:
    """The run's examples/<class>.npz, sorted."""
    return sorted((folder / EXAMPLES).glob("*.npz"))


def read_history(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs and losses of a run's history.csv; None without one (an imported checkpoint)."""
    return _read(folder / HISTORY, _history)


def read_epochs(folder: Path, definition: str) -> dict[int, dict[str, float]] | None:
    """Epoch -> metric -> percent of epochs.csv, in one definition; None without one."""
    return _read(folder / EPOCHS, lambda file: _epochs(file, definition))


def read_scores(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """Labels and scores of each class's test images; None without scores.csv."""
    return _read(folder / SCORES, _scores)


def read_curves(folder: Path) -> dict[str, dict[str, np.ndarray]] | None:
    """Curve -> class -> (2, P) x and y; None without curves.npz."""
    return _read(folder / CURVES, _curves)


def read_examples(file: Path) -> list[Example]:
    """The kept examples of one class.

    Raises:
        UserError: the file is not one that `omniad evaluate` wrote.
    """
    return _read(file, _examples) or []


def _read(file: Path, parse: Callable[[Path], T]) -> T | None:
    what = "train" if file.name in (HISTORY, EPOCHS) else "evaluate"
    with reading(file, f"not written by `omniad {what}`; run it again"):
        return parse(file) if file.exists() else None


def _history(file: Path) -> tuple[np.ndarray, np.ndarray]:
    lines = [(_epoch(line["epoch"]), _finite(line["loss"])) for line in read_csv(file, ("epoch", "loss"))]
    return np.array([epoch for epoch, _ in lines], int), np.array([loss for _, loss in lines], float)


def _epochs(file: Path, definition: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for line in read_csv(file, EPOCHS_COLUMNS):
        if line["metric"] not in METRICS or line["definition"] not in DEFINITIONS:
            raise ValueError(f"unknown metric {line['metric']!r} or definition {line['definition']!r}")
        if line["definition"] == definition:
            found.setdefault(_epoch(line["epoch"]), {})[line["metric"]] = 100 * fraction(line["value"])
    return found


def _scores(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    classes: dict[str, tuple[list[int], list[float]]] = {}
    for line in read_csv(file, SCORES_COLUMNS):
        labels, scores = classes.setdefault(line["class"], ([], []))
        labels.append(("0", "1").index(line["label"]))
        scores.append(_finite(line["score"]))
    return {name: (np.array(labels), np.array(scores)) for name, (labels, scores) in classes.items()}


def _epoch(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MOST_EPOCHS:
        raise ValueError("an epoch out of range")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) <= HIGHEST:
        raise ValueError(f"{text[:20]} is not finite, or out of range")
    return number


def fraction(text: str) -> float:
    """A metric as it is written: in [0, 1], or empty, which is NaN. Raises ValueError."""
    number = float(text) if text else math.nan
    if not (math.isnan(number) or 0 <= number <= 1):
        raise ValueError(f"{text[:20]} is not in [0, 1]")
    return number


def _open(file: Path) -> NpzFile:
    if not file.is_file():
        raise ValueError("not a file")
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
            points = stored[key]
            if points.dtype.kind != "f" or points.ndim != 2 or len(points) != 2 or not points.size:
                raise ValueError(f"{key[:80]}: no x and y for a curve")
            if not (np.min(points) >= 0 and np.max(points) <= 1):  # NaN is neither
                raise ValueError(f"{key[:80]}: not in [0, 1]")
            curves.setdefault(curve, {})[name] = points
    return curves


def _examples(file: Path) -> list[Example]:
    with _open(file) as stored:
        images, masks, maps = (stored[name] for name in ("images", "masks", "maps"))
        kind, name, label, score = (stored[name] for name in ("kind", "image", "label", "score"))
    if (images.dtype, maps.dtype) != (np.uint8, np.float16) or masks.dtype not in (np.uint8, np.bool_):
        raise ValueError("images, masks or maps of the wrong type")
    if images.ndim != 4 or images.shape[3] != 3 or not images.shape[:3] == masks.shape == maps.shape:
        raise ValueError("images, masks and maps differ in shape")
    if images.shape[1] != images.shape[2] or not 0 < images.shape[1] <= MOST_PIXELS:
        raise ValueError("images that are empty, too large or not square")
    if any(fact.shape != images.shape[:1] for fact in (kind, name, label, score)):
        raise ValueError("the numbers of images and of their facts differ")
    if (kind.dtype.kind, name.dtype.kind, label.dtype.kind, score.dtype.kind) != ("U", "U", "i", "f"):
        raise ValueError("facts of the wrong type")
    if not (np.isfinite(maps).all() and np.isfinite(score).all() and np.isin(label, (0, 1)).all()):
        raise ValueError("a map or score that is not finite, or a label that is neither 0 nor 1")
    facts = (kind.tolist(), name.tolist(), label.tolist(), score.tolist())
    return [Example(*one) for one in zip(*facts, images, masks > 0, maps.astype(np.float32), strict=True)]
