"""The pack of a run on tiles: a row for each tile of the training images. Held-out and test images stay whole."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from omniad.config import RunSettings, TileSettings
from omniad.data.growing_pack import BATCH, GrowingPack
from omniad.data.images import decode_image
from omniad.data.opening import BROKEN, read_header
from omniad.data.pack_writer import make_pack
from omniad.detector.tiles import Grid, scaled, scaled_size, size_problem
from omniad.errors import UserError
from omniad.files import in_one_line
from omniad.parallel import in_order, usable_cores
from omniad.wording import count

SHOWN = 5  # reasons, and images of each, in a message
READERS = 4  # threads that decode ahead: more images than these are never in memory

log = logging.getLogger(__name__)


def image_sizes(folder: str | Path, images: Iterable[str]) -> list[tuple[int, int]]:
    """Width and height of each image as it is stored, from its header."""
    with ThreadPoolExecutor() as pool:  # a disk is waited for, not computed with
        return list(pool.map(lambda image: read_header(Path(folder, image), turned=False).size, images))


def tile_count(size: tuple[int, int], side: int, tiles: TileSettings) -> int:
    """How many tiles an image of this width and height has; turning it upright changes nothing of that."""
    return len(Grid(scaled_size(size, tiles.scale), side, tiles.overlap).places)


def tile_index(run: RunSettings, tiles: TileSettings, index: pd.DataFrame) -> pd.DataFrame:
    """The training images' rows of an index, each repeated for every tile.

    Raises:
        UserError: images of any split are smaller than a tile, which are named, or the overlap is not below its side.
    """
    side, sizes = run.data.image_size, image_sizes(run.source.folder, index["image"])
    problems: dict[str, list[str]] = {}
    for image, size in zip(index["image"], sizes, strict=True):
        if problem := size_problem(size, side, tiles.scale):
            problems.setdefault(problem, []).append(image)
    if problems:
        told = [
            f"{', '.join(images[:SHOWN])}{', ...' if images[SHOWN:] else ''} ({problem})"
            for problem, images in problems.items()
        ]
        more = "; ..." if told[SHOWN:] else ""
        images = count(sum(map(len, problems.values())), "image")
        raise UserError(f"{run.source.folder}: {images} can't be cut into tiles: {'; '.join(told[:SHOWN])}{more}")
    counts = [tile_count(size, side, tiles) for size in sizes]
    repeats = [number if split == "train" else 0 for split, number in zip(index["split"], counts, strict=True)]
    return index.loc[index.index.repeat(repeats)].reset_index(drop=True)


def write_tile_pack(run: RunSettings, tiles: TileSettings, index_csv: Path, index: pd.DataFrame) -> None:
    """Decode the images of `tile_index`'s rows, each once, and write their tiles; a killed call is taken up again.

    Raises:
        UserError: an image can't be decoded, or the disk is full.
    """
    side, folder = run.data.image_size, run.source.folder
    counts = index.groupby("image", sort=False).size()

    def read(image: str) -> np.ndarray:
        try:
            return scaled(decode_image(Path(folder, image)), side, tiles.scale)
        except BROKEN as error:
            raise UserError(f"{folder}/{image}: can't be read: {in_one_line(error)}; remove it") from None

    def fill(growing: GrowingPack) -> None:
        done = np.searchsorted(np.cumsum(counts), growing.rows, "right")  # whole images
        skipped = growing.rows - int(counts.iloc[:done].sum())  # tiles of the next one
        readers = min(READERS, usable_cores())
        with (
            ThreadPoolExecutor(readers) as pool,  # PIL releases the interpreter's lock
            tqdm(total=len(index), initial=growing.rows, desc="tiles", disable=not sys.stderr.isatty()) as bar,
        ):
            images = in_order(pool, read, counts.index[done:], readers)
            rows = islice(chain.from_iterable(_cut(image, side, tiles.overlap) for image in images), skipped, None)
            start = growing.rows
            while batch := list(islice(rows, BATCH)):
                growing.vouch(growing.put(start, np.stack(batch), np.zeros((len(batch), side, side), np.uint8)))
                start += len(batch)
                bar.update(len(batch))

    make_pack(index_csv, run.pack_folder, len(index), side, fill)
    log.info(
        "%s: %d tiles of %s are in %s/", run.source.title, len(index), count(len(counts), "image"), run.pack_folder
    )


def _cut(image: np.ndarray, side: int, overlap: int) -> Iterator[np.ndarray]:
    """An image's tiles, (side, side, C) each."""
    grid = Grid((image.shape[0], image.shape[1]), side, overlap)
    for place in grid.places:
        yield grid.cut(image, [place])[0]
