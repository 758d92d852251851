"""A run folder's history, test metrics by epoch, scores, curves and examples: written here, and read without trust."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile

from omniad.errors import UserError
from omniad.files import atomic_write, write_csv
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
            maps=np.stack([one.map for one in examples]).astype(np.float16),
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
    if not file.exists():
        return None
    try:
        return parse(file)
    except DAMAGED as error:
        what = "train" if file.name in (HISTORY, EPOCHS) else "evaluate"
        raise UserError(f"{file}: not written by `omniad {what}` ({error}); {what} the run again") from None


def _history(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with file.open(encoding="utf-8", newline="") as handle:
        lines = [(int(line["epoch"]), float(line["loss"])) for line in csv.DictReader(handle)]
    return np.array([epoch for epoch, _ in lines]), np.array([loss for _, loss in lines])


def _epochs(file: Path, definition: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    with file.open(encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            if line["definition"] == definition:
                found.setdefault(int(line["epoch"]), {})[line["metric"]] = 100 * float(line["value"] or "nan")
    return found


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
