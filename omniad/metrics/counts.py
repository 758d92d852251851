"""Counts that every metric follows from: how many anomalous and normal pixels reach each score.

ROC, precision-recall, F1 and PRO curves change shape only at scores of *anomalous* pixels, about 2 % of all. So those
are sorted (each with its region), and the rest is only counted: pixels above, and equal to, every distinct anomalous
score. One pass puts each pixel in one of up to 2^22 bins of its score; only pixels that share a bin with an anomalous
score are sorted, a part at a time. Nothing is approximated and no score is rounded. The thresholds of the published
definition join the anomalous scores as rows, so both definitions read the same table.

Extra memory: some 60 bytes for each anomalous pixel, 16 more of them for each thread, and an eighth of the maps for the
buffers, at most 2^22 scores a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numba.core import config

from omniad.errors import UserError
from omniad.metrics import kernels

MOST_BIN_BITS = 22
PIXELS_PER_THREAD = 3_000_000  # fewer, and starting a thread costs more time and memory than it saves
MOST_THREADS = 4
PIXELS_AT_ONCE = 2**20
MOST_IN_32_BITS = 2**30  # pixels; one bit is the sign, one marks bins
BUFFER_SIZES = (2**16, 2**22)  # smallest and largest number of scores sorted at once


@dataclass(frozen=True)
class Counts:
    """Cumulative counts, a row a score, highest score first; every distinct score of an anomalous item is a row."""

    hits: np.ndarray  # (J,) anomalous items with this score or a higher one
    false_alarms: np.ndarray  # (J,) normal items with this score or a higher one
    false_above: np.ndarray  # (J,) normal items with a higher score
    positives: int
    negatives: int

    @cached_property
    def gained(self) -> np.ndarray:
        """(J,) anomalous items with exactly this score."""
        return np.diff(self.hits, prepend=0)


@dataclass(frozen=True)
class PixelCounts(Counts):
    """Counts over all pixels of a class."""

    overlap: np.ndarray  # (J,) mean over regions of the fraction of a region with this score or a higher one
    keys: np.ndarray  # (J,) the rows' scores as keys, *ascending*: row j has keys[J - 1 - j]

    def above(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits, false alarms and overlap strictly above each of these keys, all of which are rows."""
        rows = self.keys.size - 1 - np.searchsorted(self.keys, keys)
        top = rows == 0
        hits, overlap = (np.where(top, 0, values[rows - 1]) for values in (self.hits, self.overlap))
        return hits, self.false_above[rows], overlap


def count_scores(scores: np.ndarray, labels: np.ndarray) -> Counts:
    """Counts over images. scores (N,), labels (N,) bool."""
    anomalous, normal = np.sort(scores[labels]), np.sort(scores[~labels])
    rows = np.unique(anomalous)[::-1]
    return Counts(
        hits=anomalous.size - np.searchsorted(anomalous, rows, "left"),
        false_alarms=normal.size - np.searchsorted(normal, rows, "left"),
        false_above=normal.size - np.searchsorted(normal, rows, "right"),
        positives=anomalous.size,
        negatives=normal.size,
    )


class ClassPixels:
    """The maps and masks of one class, (N, H, W) each, read twice, an image at a time.

    The first pass, on creation, finds the regions, the anomalous scores and each image's highest score; `count` is the
    second. Images may be shared out among threads; what is added up are integers, so the result is always the same.

    Raises:
        UserError: a score is NaN or infinite; the image is named.
    """

    def __init__(self, maps: np.ndarray, masks: np.ndarray, names: Sequence[str] | None = None):
        self.maps, self.masks, self.names = maps, masks, names
        small = maps.dtype in (np.float32, np.float16)
        self.dtype = np.dtype(np.float32 if small else np.float64)
        self.bits = np.dtype(np.int32 if small else np.int64)
        self.magnitude = self.bits.type(np.iinfo(self.bits).max)
        # The setting, not numba.get_num_threads(): that starts numba's OpenMP pool and so changes torch's threads.
        threads: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
        threads = max(1, min(threads, MOST_THREADS, maps.size // PIXELS_PER_THREAD))
        edges = np.linspace(0, len(maps), threads + 1).astype(int).tolist()
        self.shares = [range(start, stop) for start, stop in pairwise(edges)]
        self.pool = ThreadPoolExecutor(threads)  # its threads end with this object
        # Made here, not in the threads: memory that a thread allocates is kept for its successors when it is freed.
        ends = np.cumsum([0, *self._in_threads(self._anomalous_pixels)])
        pixels = [slice(*edges) for edges in pairwise(ends)]
        keys, regions, areas = np.empty(ends[-1], self.bits), *np.empty((2, ends[-1]), np.int32)
        self._extremes = np.empty((len(maps), 2), self.bits)  # lowest and highest key of each image
        self.image_anomalous = np.empty(len(maps), bool)
        numbers = self._in_threads(self._scan, *([array[some] for some in pixels] for array in (keys, regions, areas)))
        self._check_finite()
        self.image_scores = self.scores_of(self._extremes[:, 1])
        lowest_and_highest = np.array([self._extremes[:, 0].min(), self._extremes[:, 1].max()])
        self.lowest, self.highest = self.scores_of(lowest_and_highest)
        for some, first in zip(pixels, np.cumsum([0, *numbers[:-1]]), strict=True):
            regions[some] += first
        self._sort(keys, regions)
        areas = np.concatenate([areas[some][:number] for some, number in zip(pixels, numbers, strict=True)])
        self.weights = 1 / (max(areas.size, 1) * areas.astype(float))  # what a pixel of each region adds to the overlap

    def keys_of(self, scores: np.ndarray) -> np.ndarray:
        """Scores as order-preserving integers (see kernels.py)."""
        bits = np.ascontiguousarray(scores, self.dtype).view(self.bits)
        return np.where(bits >= 0, bits, -(bits & self.magnitude))

    def scores_of(self, keys: np.ndarray) -> np.ndarray:
        """The inverse of `keys_of`."""
        return np.abs(keys).view(self.dtype) * np.sign(keys).astype(self.dtype)

    def count(self, thresholds: np.ndarray) -> PixelCounts:
        """The second pass. thresholds: keys that shall be rows besides the anomalous pixels' scores."""
        thresholds = np.sort(np.concatenate([thresholds, self.keys_of(np.array([self.lowest, self.highest]))]))
        rows = np.sort(np.concatenate([self.keys, thresholds]), kind="stable")  # merges two sorted runs
        rows = rows[np.append(True, rows[1:] != rows[:-1])]
        hits, false_alarms, false_above = columns = np.empty((3, rows.size), np.int64)
        overlap = np.empty(rows.size)
        kernels.tally(rows, *self._count_all(rows), self.keys, self.regions, self.weights, *columns, overlap)
        positives = self.keys.size
        negatives = self.maps.size - positives
        return PixelCounts(hits, false_alarms, false_above, positives, negatives, overlap, rows)

    def _anomalous_pixels(self, images: range) -> int:
        return sum(int(np.count_nonzero(self._masks(piece))) for piece in self._pieces(images))

    def _scan(self, images: range, keys: np.ndarray, regions: np.ndarray, areas: np.ndarray) -> int:
        """Key and region of these images' anomalous pixels, and the regions' sizes; returns the number of regions."""
        pixels = number = 0
        for piece in self._pieces(images):
            bits, masks = self._scores(piece).view(self.bits), self._masks(piece)
            extremes, anomalous = self._extremes[piece], self.image_anomalous[piece]
            pixels, number = kernels.find_anomalous(
                bits, masks, self.magnitude, keys, regions, areas, extremes, anomalous, pixels, number
            )
        return number

    def _check_finite(self) -> None:
        """NaN and infinite scores have the keys farthest from 0."""
        bad = (np.abs(self._extremes) >= self.keys_of(np.array(np.inf))).any(axis=1)
        if bad.any():
            image = int(np.argmax(bad))
            name = str(image) if self.names is None else f"{image} ({self.names[image]})"
            raise UserError(f"anomaly map of image {name}: contains NaN or infinite scores")

    def _sort(self, keys: np.ndarray, regions: np.ndarray) -> None:
        """Anomalous pixels ascending."""
        if self.bits == np.int32:  # key and region in one number: sorting that is faster than an argsort
            packed = np.left_shift(keys, 32, dtype=np.int64)
            packed |= regions
            packed.sort()
            regions[:] = packed  # drops the upper half
            np.right_shift(packed, 32, out=keys, casting="unsafe")
            self.keys, self.regions = keys, regions
        else:
            order = np.argsort(keys, kind="stable")
            self.keys, self.regions = keys[order], regions[order]

    def _count_all(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels strictly between each row and the one below it, and at each row."""
        low, high = int(rows[0]), int(rows[-1])
        bin_bits = min(rows.size.bit_length() + 1, MOST_BIN_BITS)  # some bins a row, as long as a cache holds them
        shift = max(0, (high - low).bit_length() - bin_bits)
        base = low >> shift
        bin_of_row = (rows >> shift) - base
        few = self.bits == np.int32 and self.maps.size < MOST_IN_32_BITS
        counter = np.dtype(np.int32 if few else np.int64)
        room = int(np.clip(self.maps.size // (8 * len(self.shares)), *BUFFER_SIZES))
        # One block: a large one costs fewer page faults than four of a megabyte for each thread.
        sizes = int(bin_of_row[-1]) + 1, rows.size, rows.size, room
        block = np.empty((len(self.shares), sum(sizes)), counter)
        bins, between, equal, buffers = np.split(block, np.cumsum(sizes[:-1]), axis=1)

        def count_share(
            images: range, bins: np.ndarray, between: np.ndarray, equal: np.ndarray, buffer: np.ndarray
        ) -> None:
            bins[:], between[:], equal[:] = 0, 0, 0
            bins[bin_of_row] = 1 << (8 * counter.itemsize - 2)  # marks bins that hold a row
            filled = 0
            for piece in self._pieces(images):
                bits = self._scores(piece).ravel().view(self.bits)
                position = 0
                while position < bits.size:
                    position, filled = kernels.sweep(bits, position, self.magnitude, base, shift, bins, buffer, filled)
                    if buffer.size - filled < kernels.BLOCK:
                        filled = _merge_sorted(buffer[:filled], rows, between, equal)
            _merge_sorted(buffer[:filled], rows, between, equal)

        self._in_threads(count_share, bins, between, equal, buffers)
        for share in range(1, len(block)):
            for total in (bins, between, equal):
                total[0] += total[share]
        kernels.add_bins(bins[0], bin_of_row, between[0])
        return between[0], equal[0]

    def _in_threads(self, task: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The task's results on the shares of the images, one share a thread, each with its row of the arguments."""
        share_out = map if len(self.shares) == 1 else self.pool.map
        return list(share_out(task, self.shares, *arguments))

    def _pieces(self, images: range) -> Iterator[slice]:
        """Some images at a time: fewer calls from threads that take turns with Python's lock."""
        step = max(1, PIXELS_AT_ONCE // self.maps[0].size)
        for first in images[::step]:
            yield slice(first, min(first + step, images.stop))

    def _scores(self, images: slice) -> np.ndarray:
        return np.ascontiguousarray(self.maps[images], self.dtype)

    def _masks(self, images: slice) -> np.ndarray:
        masks = self.masks[images]
        return np.ascontiguousarray(masks if masks.dtype == bool else masks > 0)


def _merge_sorted(keys: np.ndarray, rows: np.ndarray, between: np.ndarray, equal: np.ndarray) -> int:
    """Sort, merge into the counts, and leave none."""
    keys.sort()
    kernels.merge(keys, rows, between, equal)
    return 0
