"""Any image file as 8-bit RGB; the only place where images are decoded. docs/data.md has the table of modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from omniad.data.masks import decode_mask
from omniad.data.opening import open_whole

DARKEST = 32.0  # the largest value of an image of floats from 0 to 255 is above it


def decode_image(file: str | Path, upright: bool = True) -> Image.Image:
    """An image of any mode as 8-bit RGB; of several pages the first.

    More than 8 bits become 8 as `_eight_bits` says, the same way for every image, so that dark stays dark. Transparency
    is dropped: the colours are those stored beneath it.

    Args:
        file: of a kind that PIL reads.
        upright: turn it as its EXIF entry tells. The published data sets are read as they are stored.

    Raises:
        ValueError: the pixels' range is not one that is known, the file is damaged or too large (see opening.py). For
            broken files PIL raises what is in opening.BROKEN.
    """
    with open_whole(file) as image:
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F" or image.mode.startswith("I"):
            return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
        if "transparency" in image.info:  # of a palette's colours: PIL warns unless it goes through alpha
            return image.convert("RGBA").convert("RGB")
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # no copy: large images take memory once


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of 16 or 32 bits as uint8. The largest value tells their range.

    Integers are 8 bits in a wider file up to 255, above that 16 bits. Floats are 0 to 1, or 0 to 255; between
    them, up to DARKEST, they could be either, and would come out black.
    """
    lowest, highest = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind == "f":
        full, known = (1, highest <= 1) if highest <= DARKEST else (255, highest <= 255)
    else:
        full, known = (255, True) if highest <= 255 else (65535, highest <= 65535)
    if not (lowest >= 0 and known):  # also refuses NaN
        ranges = "1 or 255" if pixels.dtype.kind == "f" else "65535"
        raise ValueError(f"pixels from {lowest:g} to {highest:g}, not within 0 and {ranges}")
    return np.rint(pixels * (255 / full)).astype(np.uint8)


def read_image(file: str | Path, size: int) -> np.ndarray:
    """An image file as (S, S, 3) uint8 RGB, as it is stored, resized with PIL's antialiased bilinear filter."""
    return resize(decode_image(file, upright=False), size)


def read_own_image(file: str | Path, size: int) -> np.ndarray:
    """The same for images of layout `own`, turned upright."""
    return resize(decode_image(file), size)


def resize(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as (S, S, 3) uint8, with PIL's antialiased bilinear filter."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def read_masks(
    file: str | Path, size: int, turned_like: str | Path | None = None, numbered: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """A mask file as two bool masks (S, S), for the metrics' two definitions, and what is to be told about it.

    Exact: resized bilinearly as numbers of full precision, then above 0.5. Published: resized as 8-bit grey values of 0
    and 255, then above half of 255, as the toolbox behind the printed numbers does it. A pixel that is exactly half
    defect is 127.5 there, which is rounded up; halves are common where the side shrinks by a power of two.

    The other arguments are those of `decode_mask`.
    """
    defect, note = decode_mask(file, turned_like, numbered)
    numbers, greys = Image.fromarray(defect.astype(np.float32)), Image.fromarray(defect.astype(np.uint8) * 255)
    exact, published = (np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR)) for mask in (numbers, greys))
    return exact > 0.5, published > 127, note
