"""Any image file as upright 8-bit RGB: people's own images come in more kinds than those of the data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def is_image(path: Path) -> bool:
    """By its name; hidden files don't count."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """At any depth, sorted; nothing in or below a hidden folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_image(path) and not hidden and not path.is_dir():
            found.append(path)
    return found


def read_any_image(file: str | Path) -> Image.Image:
    """An image of any mode as 8-bit RGB, turned upright as its EXIF entry tells; of several pages the first.

    16 bits become 8 by dividing by 257, the same for every image, so that dark stays dark; floats are taken as 0 to 1.
    Transparency is dropped: the colours are those stored beneath it.

    Raises:
        ValueError: the pixels' range is not one of these. A broken file makes PIL raise whatever it likes.
    """
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            return Image.fromarray(_eight_bits(np.asarray(upright))).convert("RGB")
        if "transparency" in upright.info:  # of a palette's colours: PIL warns unless it goes through alpha
            upright = upright.convert("RGBA")
        return upright.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels of a deep single-channel image (H, W) as uint8."""
    highest = 1.0 if pixels.dtype.kind == "f" else 65535
    if not (pixels.min() >= 0 and pixels.max() <= highest):  # also refuses NaN
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()}, not within 0 and {highest:g}")
    return np.rint(pixels * (255 / highest)).astype(np.uint8)


def read_image(file: str | Path, size: int) -> np.ndarray:
    """An image file as (S, S, 3) uint8 RGB, resized with PIL's antialiased bilinear filter."""
    with Image.open(file) as image:
        return resize(image.convert("RGB"), size)


def read_own_image(file: str | Path, size: int) -> np.ndarray:
    """The same for images of layout `own`, of any mode and turned upright."""
    return resize(read_any_image(file), size)


def resize(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as (S, S, 3) uint8, with PIL's antialiased bilinear filter."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def read_mask(file: str | Path, size: int) -> np.ndarray:
    """A mask file as (S, S) uint8 of 0 and 1: anything above 0 is defect; resized bilinearly, then above 0.5."""
    with Image.open(file) as image:
        native = np.asarray(image)
    defect = (native if native.ndim == 2 else native[..., :3].max(axis=2)) > 0
    resized = Image.fromarray(defect.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return (np.asarray(resized) > 0.5).astype(np.uint8)
