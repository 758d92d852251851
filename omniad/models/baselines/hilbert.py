"""The Hilbert curve through a grid."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def hilbert_order(height: int, width: int) -> Tensor:
    """(height width,) positions, row by row, in the order in which a Hilbert curve visits them.

    On a grid whose sides are not equal powers of two: the order on the next larger such grid, less what is outside.
    """
    side = 1
    while side < max(height, width):
        side *= 2
    visited = (_point(step, side) for step in range(side * side))
    inside = [row * width + column for row, column in visited if row < height and column < width]
    return torch.tensor(inside, device="cpu")


def _point(step: int, side: int) -> tuple[int, int]:
    """Row and column of a step of the curve, built up from the quadrants of quadrants: two bits of `step` a level."""
    row = column = 0
    size = 1
    while size < side:
        right = step >> 1 & 1
        down = (step ^ right) & 1
        if not down:  # the first and the last quadrant hold a mirrored curve
            if right:
                row, column = size - 1 - row, size - 1 - column
            row, column = column, row
        row, column = row + size * down, column + size * right
        step >>= 2
        size *= 2
    return row, column
