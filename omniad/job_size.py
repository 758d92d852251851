"""The time and memory that a run's jobs request from a cluster.

The numbers are generous budgets, not measurements: the card is unknown here, and a job that is cut off helps nobody. A
training that runs out of time resumes in its next attempt, which gets more.
"""

from __future__ import annotations

import math

from omniad.config import RunSettings
from omniad.data.counts import class_counts
from omniad.errors import UserError

TRAINING_S = 0.03  # budget for one image of one epoch of the default model at 256 pixels
EVALUATION_S = 0.03  # the same for one test image, metrics included
START_MINUTES = 30  # imports, reading the pack, compiling
MEMORY_GIB = 8  # of the process: torch, CUDA, batches
MAP_BYTES = 16  # of a pixel of an anomaly map: the map, its mask, what sorting it takes
UNKNOWN_IMAGES = 5000  # of a split, for a data set without a table of counts
OTHER_METHOD = 5.0  # cost of another method of Table I, in default models of Omni-AD
DIAD, DIAD_GIB = 26.0, 32  # of DiAD, and its memory: it reads 7.7 GB of weights into a model of 5.7
TRAINING_FREE = (
    "padim",
    "patch-memory",
    "patchcore",
)  # without steps; METHODS, which says so, imports torch
PASSES = 3  # over the training images, which their preparation is worth
SCAN = 0.03  # cost of a block's scan in MambaAD's first stage with the Triton kernel; twice that in each next stage


def training_minutes(run: RunSettings, attempt: int = 1) -> int:
    """Time of one attempt at a training, minutes; each attempt gets as much again as the one before."""
    seconds = TRAINING_S * passes(run) * images(run, "train") * relative_cost(run)
    return attempt * (START_MINUTES + math.ceil(seconds / 60))


def evaluation_minutes(run: RunSettings, attempt: int = 1) -> int:
    """Time of an evaluation, minutes; all draws of what is random included."""
    draws = 2 if run.model.method == "diad" else 5 if run.model.variant == "released" else 1
    seconds = EVALUATION_S * draws * images(run, "test") * relative_cost(run)
    return attempt * (START_MINUTES + math.ceil(seconds / 60))


def memory_mb(run: RunSettings, attempt: int = 1) -> int:
    """Memory of a training or an evaluation, MB; a second attempt gets twice as much, and all further ones three times.

    Packs and cached features are read from their files (`read_rows` in omniad/data/packs.py): those pages are not the
    process's own, and the kernel drops them when the job's memory gets short. An evaluation holds the anomaly maps of
    one class, and some copies.
    """
    maps = MAP_BYTES * run.data.image_size**2 * _largest_class(run)
    process = DIAD_GIB if run.model.method == "diad" else MEMORY_GIB
    return min(attempt, 3) * math.ceil(1024 * process + maps / 1e6)


def passes(run: RunSettings) -> int:
    """How often a training goes over its images."""
    return PASSES if run.model.method in TRAINING_FREE else run.training.epochs


def images(run: RunSettings, split: str) -> int:
    """How many images a split of the run's data set has: from its table of counts, else a guess."""
    try:
        known = sum(class_counts(run.source, split).values())
    except UserError:  # a run that was made elsewhere, with a table or classes of its own
        known = 0
    return known or UNKNOWN_IMAGES


def _largest_class(run: RunSettings) -> int:
    """Test images of the largest class."""
    return max(class_counts(run.source, "test").values(), default=UNKNOWN_IMAGES)


def relative_cost(run: RunSettings) -> float:
    """Computation of a run's model on an image, in default models at 256 pixels; a fit to `omniad complexity`.

    A fixed part and an equal one for each Omni-block; attention without learnable tokens is over all positions; behind
    ResNet50 and WideResNet50 the decoder is four times as wide.
    """
    model, pixels = run.model, (run.data.image_size / 256) ** 2
    if model.method == "mambaad":
        scans = sum(depth * 2**stage for stage, depth in enumerate(model.depths))
        return (OTHER_METHOD + SCAN * scans * model.encoder_width / 64) * pixels
    if model.method == "diad":
        return DIAD * pixels * (model.encoder_width / 64) ** 2
    if model.method != "omni-ad":
        return OTHER_METHOD * pixels
    blocks = (19 + sum(model.depths)) / 47
    full_attentions = (model.first_attention, model.second_attention).count("none")
    wide = 10.6 if model.encoder in ("resnet50", "wide_resnet50_2") else 1.0
    width = (model.encoder_width / 64) ** 2
    return blocks * (1 + 1.7 * full_attentions) * wide * width * pixels
