"""Large images in overlapping tiles: their positions and pixels, and one map blended from theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from omniad.data.opening import MOST_PIXELS
from omniad.errors import UserError

STRIP = 256  # rows of an image that are copied at once


class Grid:
    """The tiles of an image: squares of `side` pixels, each of which shares `overlap` pixels with the next.

    They begin at the upper left corner; those at the right and lower borders reach beyond the image, which is reflected
    there. Where tiles overlap, each one's weight falls off linearly towards its edge, and the weights sum to one.

    Args:
        shape: height and width of the image, at least `side`.

    Raises:
        UserError: the overlap is not below the side.
    """

    def __init__(self, shape: tuple[int, int], side: int, overlap: int) -> None:
        check_overlap(side, overlap)
        self.shape, self.side = shape, side
        starts = [range(0, length - overlap, side - overlap) for length in shape]
        self.places = [(top, left) for top in starts[0] for left in starts[1]]
        rows, columns = (_weights(of_axis, side, overlap) for of_axis in starts)
        self._weights = {(top, left): (rows[top], columns[left]) for top, left in self.places}

    def cut(self, image: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
        """The tiles at some places of an image (H, W, ...): (B, side, side, ...)."""
        return np.stack([self._tile(image, *place) for place in places])

    def _tile(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        (height, width), side = self.shape, self.side
        if top + side <= height and left + side <= width:
            return image[top : top + side, left : left + side]
        return image[np.ix_(_reflected(top, side, height), _reflected(left, side, width))]

    def batches(self, size: int) -> Iterator[list[tuple[int, int]]]:
        """The places, `size` at a time."""
        for start in range(0, len(self.places), size):
            yield self.places[start : start + size]

    def blend(self, image: np.ndarray, batch_size: int, maps_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """One map (H, W), float32, from those of an image's tiles.

        Args:
            image: (H, W, C).
            maps_of: tiles (B, side, side, C) -> their maps (B, side, side); called with at most `batch_size` tiles.
        """
        blended = np.zeros(self.shape, np.float32)
        for places in self.batches(batch_size):
            for (top, left), tile_map in zip(places, maps_of(self.cut(image, places)), strict=True):
                rows, columns = self._weights[top, left]
                part = blended[top : top + self.side, left : left + self.side]  # smaller at the borders
                part += (rows[:, None] * (columns * tile_map))[: part.shape[0], : part.shape[1]]
        return blended


def check_overlap(side: int, overlap: int) -> None:
    """Raise a UserError if tiles don't advance."""
    if not 0 <= overlap < side:
        raise UserError(
            f"the tiles' overlap must be at least 0 and less than their side of {side} pixels, not {overlap}"
        )


def _weights(starts: range, side: int, overlap: int) -> dict[int, np.ndarray]:
    """Along one axis: what each tile's pixels count, (side,) float32, by the tile's start."""
    from_edge = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1))
    taper = np.minimum(from_edge / (overlap + 1), 1.0)
    total = np.zeros(starts[-1] + side)  # one where two overlap; else at the borders, and where more than two do
    for start in starts:
        total[start : start + side] += taper
    return {start: (taper / total[start : start + side]).astype(np.float32) for start in starts}


def _reflected(start: int, side: int, length: int) -> np.ndarray:
    """Pixels start ... start + side - 1 along an axis of `length`; those behind the last one are mirrored at it."""
    positions = np.arange(start, start + side)
    return np.where(positions < length, positions, 2 * (length - 1) - positions)


def scaled(image: Image.Image, side: int, scale: float) -> np.ndarray:
    """An RGB image at this scale, (H, W, 3) uint8, by PIL's antialiased bilinear filter.

    Raises:
        ValueError: it is then smaller than a tile.
    """
    if problem := size_problem(image.size, side, scale):
        raise ValueError(problem)
    width, height = scaled_size(image.size, scale)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):  # PIL copies what it hands over twice
        below = min(top + STRIP, height)
        pixels[top:below] = np.asarray(image.crop((0, top, width, below)))
    return pixels


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height at a scale, in pixels."""
    return round(scale * size[0]), round(scale * size[1])


def size_problem(size: tuple[int, int], side: int, scale: float) -> str:
    """Why an image of this width and height can't be cut into tiles at this scale; "" when it can."""
    width, height = scaled_size(size, scale)
    at_scale = "" if scale == 1 else f" at scale {scale:g}"
    if min(width, height) < side:
        return f"{width}x{height} pixels{at_scale}, smaller than a tile of {side}; use smaller tiles or a larger scale"
    if width * height > MOST_PIXELS:
        return f"{width}x{height} pixels{at_scale}, more than {MOST_PIXELS:,}; use a smaller scale"
    return ""
