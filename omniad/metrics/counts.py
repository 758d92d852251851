"""Counts that every metric follows from: how many anomalous and normal pixels reach each score.

ROC, precision-recall, F1 and PRO curves change shape only at scores of *anomalous* pixels, about 2 % of all. So those
are sorted (each with its region), and the rest is only counted: pixels above, and equal to, every distinct anomalous
score. One pass puts each pixel in one of up to 2^22 bins of its score; only pixels that share a bin with an anomalous
score are sorted, a part at a time. Nothing is approximated and no score is rounded. The thresholds of the published
definition join the anomalous scores as rows, so both definitions read the same table.

Extra memory: some 60 bytes for each anomalous pixel, and a sixteenth of the maps for the buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        # Made here, not in the threads: memory that a thread allocates is kept for its successors when it is freed.
        ends = np.cumsum([0, *self._in_threads(self._anomalous_pixels)])
        pixels = [slice(*edges) for edges in pairwise(ends)]
        keys, regions, areas = np.empty(ends[-1], self.bits), *np.empty((2, ends[-1]), np.int32)
        self._extremes = np.empty((len(maps), 2), self.dtype)  # lowest and highest score of each image
        self.image_anomalous = np.empty(len(maps), bool)
        numbers = self._in_threads(self._scan, *([array[some] for some in pixels] for array in (keys, regions, areas)))
        self.image_scores = self._extremes[:, 1]
        self.lowest, self.highest = self._extremes[:, 0].min() + 0, self.image_scores.max() + 0  # + 0: never -0.0
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
        between, equal = self._count_all(rows)
        hits, false_alarms, false_above = np.empty((3, rows.size), np.int64)
        overlap = np.empty(rows.size)
        kernels.tally(
            rows, between, equal, self.keys, self.regions, self.weights, hits, false_alarms, false_above, overlap
        )
        positives = self.keys.size
        return PixelCounts(hits, false_alarms, false_above, positives, self.maps.size - positives, overlap, rows)

    def _anomalous_pixels(self, images: range) -> int:
        return sum(int(np.count_nonzero(self._masks(piece))) for piece in self._pieces(images))

    def _scan(self, images: range, keys: np.ndarray, regions: np.ndarray, areas: np.ndarray) -> int:
        """Key and region of these images' anomalous pixels, and the regions' sizes; returns the number of regions."""
        pixels = number = 0
        for piece in self._pieces(images):
            scores, masks = self._scores(piece), self._masks(piece)
            extremes = self._extremes[piece]
            extremes[:, 0], extremes[:, 1] = scores.min(axis=(1, 2)), scores.max(axis=(1, 2))
            if not np.isfinite(extremes).all():
                image = piece.start + int(np.argmin(np.isfinite(extremes).all(axis=1)))
                raise UserError(f"anomaly map of image {self._name(image)}: contains NaN or infinite scores")
            bits, anomalous = scores.view(self.bits), self.image_anomalous[piece]
            pixels, number = kernels.find_anomalous(
                bits, masks, self.magnitude, keys, regions, areas, anomalous, pixels, number
            )
        return number

    def _sort(self, keys: np.ndarray, regions: np.ndarray) -> None:
        """Anomalous pixels ascending."""
        if self.bits == np.int32:  # key and region in one number: sorting that is faster than an argsort
            packed = keys.astype(np.int64)
            packed <<= 32
            packed |= regions
            packed.sort()
            regions[:] = packed  # drops the upper half
            packed >>= 32
            keys[:] = packed
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
        counter = np.dtype(np.int32 if self.maps.size < MOST_IN_32_BITS else np.int64)
        room = int(np.clip(self.maps.size // (16 * len(self.shares)), *BUFFER_SIZES))
        sizes = int(bin_of_row[-1]) + 1, rows.size, rows.size
        bins, between, equal = (np.zeros((len(self.shares), size), counter) for size in sizes)
        buffers = np.empty((len(self.shares), room), self.bits)

        def count_share(
            images: range, bins: np.ndarray, between: np.ndarray, equal: np.ndarray, buffer: np.ndarray
        ) -> None:
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
        for share in range(1, len(self.shares)):
            for total in (bins, between, equal):
                total[0] += total[share]
        bins[0, bin_of_row] = 0  # their pixels were told apart
        below = np.cumsum(bins[0], out=bins[0])
        between[0, 1:] += np.diff(below[bin_of_row])
        return between[0], equal[0]

    def _in_threads(self, task: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The task's results on the shares of the images, one share a thread, each with its row of the arguments."""
        if len(self.shares) == 1:
            return [task(self.shares[0], *(argument[0] for argument in arguments))]
        with ThreadPoolExecutor(len(self.shares)) as pool:
            return list(pool.map(task, self.shares, *arguments))

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

    def _name(self, image: int) -> str:
        return str(image) if self.names is None else f"{image} ({self.names[image]})"


def _merge_sorted(keys: np.ndarray, rows: np.ndarray, between: np.ndarray, equal: np.ndarray) -> int:
    """Sort, merge into the counts, and leave none."""
    keys.sort()
    kernels.merge(keys, rows, between, equal)
    return 0
