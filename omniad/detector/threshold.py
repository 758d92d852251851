"""The score above which an image is called anomalous, from good images that the model had not seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from omniad.data.layouts import own
from omniad.files import atomic_write, read_text, reading, sha256_file
from omniad.runs.files import MODEL, THRESHOLD

MOST_BYTES = 10_000_000  # of threshold.json, which has a line a product


class Threshold(NamedTuple):
    """A run's threshold, and the data it was set on."""

    threshold: float  # an image is anomalous when its score is above it
    quantile: float  # share of its good images whose score does not exceed it
    images: int  # how many those were
    typical: float  # median of their maps' medians, minus what is expected: the usual level of a good image's map
    products: dict[str, float]  # the same quantile for each product's images alone, for comparison
    model_sha256: str = ""  # of the weights it belongs to; empty: written by an older version


def images_for_threshold(index: pd.DataFrame, leaves_out: bool) -> pd.DataFrame:
    """The good images that set the threshold: those of the split "validation".

    For a class without any, some of the training images, if the model can leave each of them out.

    Args:
        index: of a pack.
        leaves_out: whether the model can do so (`LeavesOut`).

    Returns:
        A row an image: class; row, its place in the pack; member, its place among the training images, -1 where it is
        none. Those with -1 come first.
    """
    rows = index.reset_index(names="row")
    validation = rows.loc[rows["split"] == "validation"].assign(member=-1)
    train = rows.loc[rows["split"] == "train"]
    train = train.assign(member=range(len(train)))
    parts = [validation]
    for class_, members in train.groupby("class"):
        if leaves_out and class_ not in set(validation["class"]):
            parts.append(members.iloc[own.spread(min(len(members), own.HELD_OUT_MOST), len(members))])
    return pd.concat(parts).loc[:, ["class", "row", "member"]]


def make_threshold(scores: np.ndarray, medians: np.ndarray, products: list[str], quantile: float) -> Threshold:
    """The smallest score that at least a share `quantile` of the scores does not exceed.

    Args:
        scores (N,): of good images that the model had not seen.
        medians (N,): of the pixels of each one's map.
        products: the product that each of them shows.
        quantile: in (0, 1]; 1 is the highest score.
    """

    def at_quantile(values: np.ndarray) -> float:
        return float(np.quantile(values, quantile, method="inverted_cdf"))

    names = np.array(products)
    each = {name: at_quantile(scores[names == name]) for name in sorted(set(products))}
    return Threshold(at_quantile(scores), quantile, len(scores), float(np.median(medians)), each)


def of_other_weights(threshold: Threshold, run_dir: Path) -> bool:
    """Whether a threshold belongs to weights other than the run's."""
    return bool(threshold.model_sha256) and threshold.model_sha256 != sha256_file(run_dir / MODEL)


def write_threshold(run_dir: Path, threshold: Threshold) -> None:
    with atomic_write(run_dir / THRESHOLD) as file:
        json.dump(threshold._asdict(), file, indent=1)
        file.write("\n")


def read_threshold(run_dir: Path) -> Threshold | None:
    """A run's threshold; None when it has none.

    Raises:
        UserError: the file is not one that `omniad fit` wrote.
    """
    file = run_dir / THRESHOLD
    with reading(file, "not a threshold from `omniad fit`; remove it, or run `omniad fit` again"):
        if not file.exists():
            return None
        threshold = Threshold(**json.loads(read_text(file, MOST_BYTES)))
        for value in (threshold.threshold, threshold.typical):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError("a threshold that is not a finite number")
        if not isinstance(threshold.model_sha256, str):
            raise ValueError("a sha256 that is not text")
    return threshold
