"""Count the defect pixels in which the two definitions' masks differ, on synthetic masks of several sizes.

python benchmarks/masks.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from omniad.data.images import read_masks

SIDES = (2048, 1024, 1000, 900, 840, 700, 512)
COUNT = 400
SIZE = 256


def masks(side: int) -> Iterator[Image.Image]:
    """Ellipses, rectangles, strokes and polygons, 1 to 12 % of the side in half-axis."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        mask = Image.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.01, 0.12, 2) * side
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.3, 1, (9, 1)) * radius + centre
        path = centre + np.cumsum(rng.normal(0, 0.04 * side, (6, 2)), axis=0)
        match number % 4:
            case 0:
                draw.ellipse([*(centre - radius), *(centre + radius)], fill=255)
            case 1:
                draw.rectangle([*np.floor(centre - radius), *np.floor(centre + radius)], fill=255)
            case 2:
                draw.line([(x, y) for x, y in path], fill=255, width=int(rng.integers(2, 16)))
            case _:
                draw.polygon([(x, y) for x, y in corners], fill=255)
        yield mask


def main() -> None:
    print("| side | defect pixels at 256, exact | published | in one of both alone |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mask.png")
        for side in SIDES:
            totals = np.zeros(3, np.int64)
            for mask in masks(side):
                mask.save(file, compress_level=1)
                exact, published, _ = read_masks(file, SIZE)
                totals += exact.sum(), published.sum(), (exact != published).sum()
            share = 100 * totals[2] / totals[1]
            print(f"| {side} | {totals[0]:,} | {totals[1]:,} | {share:.3f} % |")


if __name__ == "__main__":
    main()
