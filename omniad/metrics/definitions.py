"""The seven metrics of one class, in both definitions.

`exact` is what the metrics' own papers define, over every distinct score. `published` is what the numbers in this
field's tables were computed with (the ADer toolbox's settings). It differs in how evaluation resizes masks
(`read_masks` in data/images.py), in the image label (a defect that vanishes when the mask is resized counts as normal),
in P-F1max (21 thresholds on the min-max-normalised maps) and in AU-PRO (a grid of 100 thresholds, no interpolation,
rescaled rates). Never compare one with the other.

An undefined metric is NaN, with the reason beside it; nothing is set to 0 or 1 instead. Constant maps do not
leave the exact metrics undefined: they rank nothing, and the values say so (AUROC .5, AP the share of anomalous items,
AU-PRO .15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Definition = Literal["exact", "published"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
SEVEN = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AU-PRO")
METRICS = (*SEVEN, "mAD")


@dataclass(frozen=True)
class Measured:
    """A class's metrics in one definition: values in [0, 1] or NaN, and why each NaN is undefined."""

    fractions: dict[str, float]
    reasons: dict[str, str]


@dataclass(frozen=True)
class ClassResult:
    """Everything that evaluation keeps of a class besides its examples."""

    metrics: dict[Definition, Measured]
    image_scores: np.ndarray  # (N,)
    curves: dict[str, np.ndarray]  # x and y, (2, at most 512), of image_roc, image_pr, pixel_roc, pixel_pr and pro
