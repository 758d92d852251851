"""Defects with exact masks: outside its mask, a defective image equals its clean twin, pixel for pixel."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

MEAN_SHARE = 0.06  # of the image's area
SMALLEST_SHARE = 0.02


class Site(NamedTuple):
    """What a defect is made of. Images are (H, W, 3) float, 0 to 255."""

    image: np.ndarray  # clean
    shape: np.ndarray  # (H, W) bool: where the defect is
    behind: np.ndarray  # what one sees where the object is gone
    foreign: np.ndarray  # another matter
    rng: np.random.Generator


# Each kind returns a whole changed image (H, W, 3), of which only the shape is taken.


def scratch(site: Site) -> np.ndarray:
    """A line scraped into the surface: lighter or darker than its surroundings, without their structure."""
    mean = site.image[site.shape].mean()
    shade = mean + (110 if mean < 128 else -110)
    return 0.15 * site.image + 0.85 * (shade + 16 * site.rng.standard_normal(site.shape.shape))[..., None]


def stain(site: Site) -> np.ndarray:
    """Something that soaked in: the structure stays, faintly, in a colour darker or lighter than around."""
    mean = site.image[site.shape].mean()
    colour = site.rng.permutation((1.4, 0.9, 0.7)) * (0.45 * mean if mean > 128 else mean + 70)
    return 0.35 * site.image + 0.65 * colour


def hole(site: Site) -> np.ndarray:
    """A dark pit without the surface's structure."""
    depth = np.asarray(ndimage.distance_transform_edt(site.shape))
    shade = 62 - 2.0 * np.minimum(depth, 16) + 5 * site.rng.standard_normal(depth.shape)
    return np.repeat(shade[..., None], 3, axis=2)


def missing(site: Site) -> np.ndarray:
    """A part that is not there: one sees what lies behind it."""
    return site.behind


def contamination(site: Site) -> np.ndarray:
    """A crumb of another matter on the surface: its own structure and colour, brighter or darker than the surface."""
    mean, given = site.image[site.shape].mean(), site.foreign[site.shape]
    return (site.foreign - given.mean()) * (48 / max(given.std(), 1)) + mean + (50 if mean < 128 else -50)


def smear(site: Site) -> np.ndarray:
    """The structure is wiped away in one direction; the mean colour stays."""
    return ndimage.uniform_filter1d(site.image, 25, axis=int(site.rng.integers(2)), mode="nearest")


KINDS = {kind.__name__: kind for kind in (scratch, stain, hole, missing, contamination, smear)}


def draw_shape(kind: str, allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where a defect of this kind lies, (H, W) bool: inside `allowed`, 2 to about 10 % of the image."""
    draw = _stroke if kind == "scratch" else _blob
    best = np.zeros(allowed.shape, dtype=bool)
    for _ in range(20):
        shape = draw(allowed, rng) & allowed
        if shape.mean() > best.mean():
            best = shape
        if best.mean() >= SMALLEST_SHARE:
            break
    return best


def _centre(allowed: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    places = np.flatnonzero(allowed)
    row, column = divmod(int(places[rng.integers(len(places))]), allowed.shape[1])
    return row, column


def _blob(allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A round shape with a wavy rim."""
    size = allowed.shape[0]
    row, column = _centre(allowed, rng)
    y, x = np.mgrid[:size, : allowed.shape[1]]
    angle = np.arctan2(y - row, x - column)
    share = rng.uniform(0.6, 1.7) * MEAN_SHARE
    rim = np.sqrt(share / np.pi) * size * np.ones_like(angle)
    for waves in (2, 3, 5):
        rim = rim * (1 + rng.uniform(0, 0.6 / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi)))
    return np.hypot(y - row, x - column) < rim


def _stroke(allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bent line, 5 to 9 % of the image's side wide."""
    size = allowed.shape[0]
    row, column = _centre(allowed, rng)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-1.5, 1.5)
    steps = np.linspace(-0.5, 0.5, 60) * rng.uniform(0.7, 1.1)
    rows = row + size * np.cumsum(np.sin(heading + bend * steps)) * (steps[1] - steps[0])
    columns = column + size * np.cumsum(np.cos(heading + bend * steps)) * (steps[1] - steps[0])
    rows, columns = rows - rows.mean() + row, columns - columns.mean() + column
    line = np.ones(allowed.shape, dtype=bool)
    keep = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < allowed.shape[1])
    line[rows[keep].astype(int), columns[keep].astype(int)] = False
    return np.asarray(ndimage.distance_transform_edt(line)) < size * rng.uniform(0.025, 0.045)
