"""Images of photographed things: pieces of a texture, coins on a dark cloth."""

import numpy as np
from PIL import Image

from omniad.miniature.photographs import Split, area, coins

RELIEF = 0.4  # the photograph's contrast on coins, softened: no two coins are alike, and few can be shown in training


def piece(name: str, split: Split, size: int, rng: np.random.Generator, span: tuple[int, int]) -> np.ndarray:
    """A square piece of a photograph's area, flipped at random, as (size, size, 3) float, 0 to 255.

    `span` is the range of the piece's side in the photograph, pixels.
    """
    pixels = area(name, split)
    side = min(int(rng.integers(span[0], span[1] + 1)), *pixels.shape[:2])
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in pixels.shape[:2])
    cut = pixels[top : top + side, left : left + side]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    return np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def coin(
    u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """One coin of an area in the frame u, v (H, W), its rim the unit circle: what a painter of objects returns."""
    found = coins(split)
    picture = found[int(rng.integers(len(found)))][..., 0].astype(np.float64)  # (2r, 2r)
    centre = (len(picture) - 1) / 2
    x, y = (np.clip(centre + w * centre, 0, len(picture) - 1.001) for w in (u, v))
    left, top = x.astype(int), y.astype(int)
    right, below = x - left, y - top
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    grey = upper * (1 - below) + lower * below
    grey = picture.mean() + RELIEF * (grey - picture.mean())
    share = np.clip(0.5 - (np.hypot(u, v) - 0.97) / pixel, 0, 1)
    return grey[..., None] * (1.0, 0.96, 0.86), share
