"""The public functions of the metrics: they check arrays or files and return a dictionary or a ClassResult."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omniad.errors import UserError
from omniad.files import reading
from omniad.metrics.definitions import DEFINITIONS, ClassResult, Definition


def class_metrics(
    maps: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray | None = None,
    definition: Definition = "exact",
    *,
    scores: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """The seven metrics of one class and their mean (mAD), as a dictionary of fractions in [0, 1].

    Args:
        maps: anomaly maps (N, H, W), higher is more anomalous; float32 and float64 are used as they are.
        masks: (N, H, W), anomalous where > 0.
        labels: (N,), anomalous where > 0. Without them an image is anomalous when its mask is. `published` always
            uses the mask.
        definition: "exact" or "published".
        scores: (N,) image scores; without them, each map's maximum.
        names: of the images, for error messages.

    Raises:
        UserError: shapes do not match, or a score is NaN or infinite (the image is named).
    """
    if definition not in DEFINITIONS:
        raise UserError(f"definition must be {' or '.join(DEFINITIONS)}, not '{definition}'")
    return evaluate_class(maps, masks, labels, scores=scores, names=names, curves=False).metrics[definition].fractions


def evaluate_class(
    maps: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray | None = None,
    published_masks: np.ndarray | None = None,
    *,
    scores: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    curves: bool = True,
) -> ClassResult:
    """Both definitions, with reasons for what is undefined, and the curves. See `class_metrics`.

    `published_masks` (N, H, W) are the definition `published`'s where they are others; that takes a second pass.
    """
    maps, masks, labels, scores = _checked(maps, masks, labels, scores, names)
    if published_masks is not None:
        _, published_masks, _, _ = _checked(maps, published_masks, None, None, None)
    try:
        # Imported here, so that where numba does not work only the metrics fail, and in one line.
        from numba.core.errors import NumbaError

        from omniad.metrics.counts import ClassPixels
        from omniad.metrics.measure import measure
    except ImportError as error:
        raise UserError(f"the metrics need numba, but importing it fails: {error}; reinstall it") from None
    try:
        result = measure(ClassPixels(maps, masks, names), labels, scores, curves)
        if published_masks is None or np.array_equal(masks, published_masks):
            return result
        published = measure(ClassPixels(maps, published_masks, names), labels, scores, curves=False)
        metrics = {"exact": result.metrics["exact"], "published": published.metrics["published"]}
        return replace(result, metrics=metrics)
    except NumbaError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"numba can't compile the metrics here: {first}; install a numba that supports this Python"
        ) from error


def metrics_of_files(
    maps: str | Path, masks: str | Path, labels: str | Path | None = None, definition: Definition = "exact"
) -> dict[str, float]:
    """`class_metrics` of .npy files; large ones are read in parts.

    Raises:
        UserError: a file is missing or not a .npy array, or what `class_metrics` refuses.
    """
    arrays = [None if file is None else _load(file) for file in (maps, masks, labels)]
    if arrays[0] is None or arrays[1] is None:
        raise UserError("metrics need a file of maps and a file of masks")
    return class_metrics(arrays[0], arrays[1], arrays[2], definition)


def _checked(maps: Any, masks: Any, labels: Any, scores: Any, names: Sequence[str] | None) -> tuple[Any, ...]:
    """The arguments as arrays of matching shapes, labels as bool.

    Raises:
        UserError: naming the argument and its shape or type.
    """
    given = {"maps": maps, "masks": masks, "labels": labels, "scores": scores}
    arrays = {name: np.asarray(value) for name, value in given.items() if value is not None}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise UserError(f"{name}: must contain numbers, not {array.dtype}")
    shape = arrays["maps"].shape
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"maps: the shape must be (images, height, width), without zeros, not {shape}")
    for name, wanted in (("masks", shape), ("labels", shape[:1]), ("scores", shape[:1])):
        if name in arrays and arrays[name].shape != wanted:
            raise UserError(f"{name}: shape {arrays[name].shape} does not match maps of shape {shape}; need {wanted}")
    if names is not None and len(names) != shape[0]:
        raise UserError(f"names: {len(names)} names for {shape[0]} images")
    if "scores" in arrays and not np.isfinite(arrays["scores"]).all():
        image = int(np.flatnonzero(~np.isfinite(arrays["scores"]))[0])
        raise UserError(f"score of image {image if names is None else names[image]}: NaN or infinite")
    marked = arrays["labels"] > 0 if "labels" in arrays else None
    return arrays["maps"], arrays["masks"], marked, arrays.get("scores")


def _load(file: str | Path) -> np.ndarray:
    with reading(file, "not an array of numbers in .npy format; numpy.save writes one"):
        if Path(file).exists() and not Path(file).is_file():
            raise ValueError("not a file")
        if zipfile.is_zipfile(file):
            raise UserError(f"{file}: a .npz archive; give the .npy file of one array")
        return np.lib.format.open_memmap(file, mode="r")
