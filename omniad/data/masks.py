"""A mask file as a boolean array of the defect. docs/data.md has the table of modes.

A mask is read by its levels, from dark to light. Two levels: the lighter one is the defect. Small numbers: each above 0
is a kind of defect. Otherwise the levels between are the noise of a lossy format or the soft edge of a brush: the mask
is thresholded in the middle, and reported. Ambiguous masks are refused.

In MVTec LOCO AD an image has a folder of masks, one a region: the defect is their union, each read as above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from omniad.data.folders import LeftOut, entries, is_image
from omniad.data.opening import BROKEN, open_whole, orientation_of

LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"}  # formats whose levels may be off by a little
MOST_NUMBERS = 31  # kinds of defect that a mask can number, or show in colours of their own
TURNS_SIDES = (5, 6, 7, 8)  # of EXIF's orientations: height becomes width

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

OTHER_SIZE = "mask with a different size than its image"
UNKNOWN_TURN = "mask whose orientation is unclear, because its image has an EXIF rotation: save both without EXIF"
NO_MASKS = "mask folder without masks"
MISREAD = "convert the mask to black (good) and white (defect)"


def decode_mask(
    file: str | Path, turned_like: str | Path | None = None, numbered: bool = False
) -> tuple[np.ndarray, str]:
    """A mask's defect as (H, W) bool, at its own size.

    Args:
        file: of a kind that PIL reads; or a folder of such files, whose union it is. Each of them is `numbered`.
        turned_like: the image it belongs to, if that is turned upright: then the mask is, too.
        numbered: every level above 0 is defect, however many there are: of data sets whose authors read them so.

    Returns:
        The array, and how it was read where that is not beyond doubt, in a few words; else "".

    Raises:
        ValueError: it is ambiguous or damaged. For broken files PIL raises what is in opening.BROKEN.
    """
    files = mask_files("", str(file))
    if files == [str(file)]:
        return _decode(file, turned_like, numbered)
    regions = []
    for region in files:
        try:
            regions.append(_decode(region, turned_like, numbered=True)[0])
        except BROKEN as error:
            raise ValueError(f"{Path(region).name}: {error}") from error
    if len({region.shape for region in regions}) != 1:
        raise ValueError("a folder with masks of different sizes" if regions else NO_MASKS)
    return np.logical_or.reduce(regions), ""


def mask_files(folder: str | Path, mask: str) -> list[str]:
    """The files of a mask: itself, or the images in it where it is a folder.

    Args:
        folder: of the data set.
        mask: as an index names it, relative to `folder`; so are the files.
    """
    if is_image(mask) or not Path(folder, mask).is_dir():
        return [mask]
    return [f"{mask}/{image.name}" for image in entries(Path(folder, mask), LeftOut())[0]]


def _decode(file: str | Path, turned_like: str | Path | None, numbered: bool) -> tuple[np.ndarray, str]:
    """The defect of one file."""
    with open_whole(file) as opened:
        mask = opened if turned_like is None else _upright(opened, turned_like)
        if mask.mode in ("PA", "La", "LA", "RGBa", "RGBA") or "transparency" in mask.info:
            return _with_alpha(mask.convert("RGBA"), opened.format in LOSSY)
        if numbered:
            pixels = np.asarray(mask.convert("RGB") if mask.mode == "P" else mask)
            return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0, ""
        return _shape(mask, opened.format in LOSSY)


def mask_problem(size: tuple[int, int], orientation: int, mask_size: tuple[int, int], mask_orientation: int) -> str:
    """Why a mask doesn't fit its image when both are turned upright; "" if it does.

    Sizes are widths and heights as stored, of the image first; orientations are EXIF's, 1 where there is no entry.
    """
    if (mask_size, mask_orientation) == (size, orientation):
        return ""  # whichever way: they are turned alike
    upright = size[::-1] if orientation in TURNS_SIDES else size
    if mask_orientation == 1 and orientation != 1 and mask_size in (size, upright):
        return "" if size != upright else UNKNOWN_TURN  # its size tells which of the two it was drawn on
    mask_upright = mask_size[::-1] if mask_orientation in TURNS_SIDES else mask_size
    return "" if mask_upright == upright else OTHER_SIZE


def _upright(mask: Image.Image, image_file: str | Path) -> Image.Image:
    """The mask turned as its image is."""
    with open_whole(image_file) as image:
        orientation, size = orientation_of(image), image.size
    own = orientation_of(mask)
    if problem := mask_problem(size, orientation, mask.size, own):
        raise ValueError(problem)
    lacks_entry = own == 1 and mask.size == size  # it is drawn on the image as stored
    return _turned(mask, orientation if lacks_entry else own)


def _turned(mask: Image.Image, orientation: int) -> Image.Image:
    return mask.transpose(TURNS[orientation]) if orientation in TURNS else mask


def _with_alpha(mask: Image.Image, lossy: bool) -> tuple[np.ndarray, str]:
    """The shape is in the colour, or in the transparency where all that is visible has one colour."""
    alpha = mask.getchannel("A")
    colour = mask.convert("RGB")
    if _constant(alpha):
        return _shape(colour, lossy)
    visible, note = _shape(alpha, lossy)
    shown = np.asarray(colour)[visible]
    if (shown == shown[:1]).all():
        return visible, note
    drawn, note = _shape(colour, lossy)
    if (drawn == visible).all():
        return drawn, note
    raise ValueError(f"colour and transparency show two different shapes; {MISREAD}")


def _constant(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


def _shape(mask: Image.Image, lossy: bool) -> tuple[np.ndarray, str]:
    """The defect of a mask without transparency."""
    if mask.mode == "1":
        return np.asarray(mask), ""
    if mask.mode == "L":
        present = [level for level, pixels in enumerate(mask.histogram()) if pixels]
        return _by_levels(np.asarray(mask), present, lossy)
    if mask.mode == "F" or mask.mode.startswith("I"):
        levels = np.asarray(mask)
        return _by_levels(levels, np.unique(levels).tolist(), lossy)
    return _by_colours(mask.convert("RGB"), lossy)


def _by_colours(mask: Image.Image, lossy: bool) -> tuple[np.ndarray, str]:
    """Grey, or black with the defect in any colours."""
    pixels = np.asarray(mask)
    levels = pixels.max(axis=2)  # of a grey pixel, its grey
    colours = None if lossy else mask.getcolors(MOST_NUMBERS + 1)  # None: more than that
    if colours is not None and any(pixel.min() < pixel.max() for pixel in (np.array(colour) for _, colour in colours)):
        if len(colours) > 1 and (0, 0, 0) not in {colour for _, colour in colours}:
            raise ValueError(f"colours without black, so the background can't be told from the defect; {MISREAD}")
        return levels > 0, ""
    present = np.flatnonzero(np.bincount(levels.ravel(), minlength=256)).tolist()
    dark = pixels[levels == present[0]]
    if present[0] > 127 and not (dark == dark[:1]).all():
        raise ValueError(f"colours on a light background, which can't be told from the defect; {MISREAD}")
    return _by_levels(levels, present, lossy)


def _by_levels(levels: np.ndarray, present: Sequence[float], lossy: bool) -> tuple[np.ndarray, str]:
    """The defect in grey levels (H, W); `present` are the levels that occur, sorted."""
    low, high = present[0], present[-1]
    if not (low >= 0 and high < float("inf")):  # NaN, too
        raise ValueError(f"levels from {low:g} to {high:g}; {MISREAD}")
    ranges = (1, 255, 65535) if levels.dtype.kind == "f" else (255, 65535)
    full = next((limit for limit in ranges if high <= limit), high)
    if high == 0 or (not lossy and low == high):
        return levels > 0, ""
    if not lossy and len(present) == 2:
        if low > 0 and not low < full / 2 <= high:
            raise ValueError(f"levels {low:g} and {high:g}, neither of them black; {MISREAD}")
        return levels > low, ""
    if not lossy and low == 0 and high <= MOST_NUMBERS and all(float(level).is_integer() for level in present):
        return levels > 0, ""
    light, dark = int((levels > 0.75 * full).sum()), int((levels < 0.25 * full).sum())
    between = levels.size - light - dark
    if light == 0 or between > min(light, dark or light):
        raise ValueError(
            f"{len(present)} levels from {low:g} to {high:g}, with more grey than black and white; {MISREAD}"
        )
    told = (
        "" if all(level in (0, full) for level in present) else f"{len(present)} grey levels, thresholded in the middle"
    )
    return levels > full / 2, told
