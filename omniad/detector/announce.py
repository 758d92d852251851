"""What `omniad fit` announces: the detector, the number of images, the expected time, and alternatives."""

from __future__ import annotations

import logging
from collections import Counter

import pandas as pd

from omniad.config import RunSettings, TileSettings
from omniad.data.layouts import own
from omniad.data.packs import Pack
from omniad.detector.presets import DEFAULT, choose
from omniad.detector.threshold import images_for_threshold
from omniad.detector.tile_pack import image_sizes, tile_count
from omniad.detector.tiles import size_problem
from omniad.errors import UserError
from omniad.models.checkpoint import METHODS, epochs_of
from omniad.training.cost import cpu_hours
from omniad.wording import count, duration

LARGE = 4  # times the model's input: images with longer sides are better cut into tiles
LOOKED_AT = 100  # images whose size tells how large they are

log = logging.getLogger(__name__)


def announce(run: RunSettings, index: pd.DataFrame, pack: Pack, about: str, on_cpu: bool, begun: bool) -> None:
    """Log it.

    Args:
        index: a row an image.
        pack: of the images, or of the training images' tiles.
        about: a description of the detector.
        on_cpu: whether it runs on a CPU, where the time can be estimated.
        begun: whether an earlier call did some of it, or all, so that the time of the rest is not known.
    """
    images, rows = (Counter(each["split"])["train"] for each in (index, pack.index))
    epochs, scored = epochs_of(run), len(images_for_threshold(index, METHODS[run.model.method].leaves_out))
    products = index.loc[index["split"] == "train", "class"].nunique()
    steps = f"; {epochs} epochs, {epochs * (rows // run.training.batch_size)} steps" if epochs else ""
    if begun:
        time = "no estimate, because an earlier call began here"
    elif on_cpu:
        time = _time(run, rows, scored * rows // images)
    else:
        time = "an estimate of the time follows after the first epoch" if epochs else "at most minutes on this GPU"
    of = f"{count(products, 'product')}{f' in {rows:,} tiles' if run.tiles else ''}"
    log.info("%s: %d good images of %s%s%s: %s", about[0].upper() + about[1:], images, of, _kept(index), steps, time)
    if run.model.method == choose(DEFAULT).settings.model.method:
        log.info("(`--preset paper` is the paper's model, which takes longer to train.)")
    if not (run.tiles or begun):
        _advise_tiles(run, index, scored, on_cpu)


def _kept(index: pd.DataFrame) -> str:
    """How many images are kept for the threshold, and of which kind: ", 46 validation images for the threshold"."""
    given = [own.is_given(image) for image in index.loc[index["split"] == "validation", "image"]]
    kinds = [count(sum(given), "validation image")] if any(given) else []
    kinds += [f"{given.count(False)} more held out"] if not all(given) else []
    return f", {' and '.join(kinds)} for the threshold" if kinds else ""


def _advise_tiles(run: RunSettings, index: pd.DataFrame, scored: int, on_cpu: bool) -> None:
    """Say if images are so large that small defects get lost when they are resized, and what tiles would cost."""
    side, tiles = run.data.image_size, TileSettings()
    images = index.loc[index["split"] == "train", "image"].tolist()
    some = [images[place] for place in own.spread(min(len(images), LOOKED_AT), len(images))]
    sizes = sorted(image_sizes(run.source.folder, some), key=lambda size: size[0] * size[1])
    width, height = sizes[len(sizes) // 2]
    if max(width, height) <= LARGE * side or size_problem((width, height), side, tiles.scale):
        return
    number = tile_count((width, height), side, tiles)
    longer = on_cpu and not epochs_of(run)  # a training takes as many steps, whatever of
    time = f" and fit {_time(run, number * len(images), number * scored)}" if longer else ""
    log.info(
        f"Images of {width}x{height} pixels are shrunk to {side}x{side}, where small defects can vanish: `--tile "
        f"{side}` cuts each into {number} tiles instead, but then predict takes {number} times as long{time}."
    )


def _time(run: RunSettings, images: int, scored: int) -> str:
    try:
        return f"about {duration(3600 * cpu_hours(run, images, scored))} on this CPU"
    except UserError as error:  # the run's own model may need less memory than the one that is timed
        return f"how long it takes can't be measured ({error})"
