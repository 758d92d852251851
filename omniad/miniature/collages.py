"""Collages of several materials, with the material at every pixel: what the miniatures' encoders learn from.

Materials are the training areas of the photographs, and training specimens of the procedural objects and the coins;
no test area and no test coin is ever seen.
"""

import numpy as np
from PIL import Image

from omniad.miniature.photographs import FILES, area
from omniad.miniature.scenes import CLASSES, make_example

SPECIMENS = 6  # of each object
PIECES = 4  # in a collage
CROP_SIDES = (40, 140)  # pixels of the source
CONTRAST, COLOUR, GREY_SHARE = 0.4, 0.2, 0.2  # of the augmentation

Material = list[np.ndarray]  # its pictures, (H, W, 3) uint8


def materials(seed: int) -> dict[str, Material]:
    """Every material by name: a photograph's training area, or training specimens of an object."""
    found = {name: [area(name, "train")] for name in FILES if name != "coins"}
    for layout, specs in CLASSES.items():
        for number, (name, spec) in enumerate(specs.items()):
            if not spec.photograph:
                rngs = [np.random.default_rng([seed, len(layout), number, specimen]) for specimen in range(SPECIMENS)]
                found[f"{layout}/{name}"] = [make_example(spec, "train", "good", rng).image for rng in rngs]
    return found


def collages(
    sources: list[Material], number: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Collages (number, size, size, 3) uint8 and each pixel's material (number, size, size): an index of `sources`."""
    images = np.empty((number, size, size, 3), dtype=np.uint8)
    labels = np.empty((number, size, size), dtype=np.int64)
    y, x = np.mgrid[:size, :size] / size
    for image, label in zip(images, labels, strict=True):
        seats = rng.random((PIECES, 2))  # a pixel belongs to the nearest seat: Voronoi cells
        nearest = np.hypot(y[..., None] - seats[:, 0], x[..., None] - seats[:, 1]).argmin(axis=2)
        for piece in range(PIECES):
            material = int(rng.integers(len(sources)))
            cell = nearest == piece
            image[cell] = _crop(sources[material], size, rng)[cell]
            label[cell] = material
    return images, labels


def _crop(material: Material, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop, flipped, turned, changed in contrast, brightness and colour: (size, size, 3) uint8."""
    picture = material[int(rng.integers(len(material)))]
    side = min(int(rng.integers(*CROP_SIDES)), *picture.shape[:2])
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in picture.shape[:2])
    crop = Image.fromarray(picture[top : top + side, left : left + side])
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    pixels = np.rot90(pixels[:, ::-1] if rng.random() < 0.5 else pixels, k=int(rng.integers(4)))
    if rng.random() < GREY_SHARE:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    mean = pixels.mean()
    contrast, brightness = rng.uniform(1 - CONTRAST, 1 + CONTRAST, 2)
    pixels = ((pixels - mean) * contrast + mean * brightness) * rng.uniform(1 - COLOUR, 1 + COLOUR, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)
