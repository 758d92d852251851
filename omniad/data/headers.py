"""A look at every image's and mask's header: is it there, is it an image, has the mask its image's size?

Pixels are not decoded here, which takes minutes where this takes seconds; `omniad pack` does, and finds cut-off files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits: PIL would cut them off at 255
BATCH = 256


def header_problems(folder: Path, pairs: Iterable[tuple[str, str]], deep: bool = False) -> Iterator[tuple[str, str]]:
    """Kind and path of everything that is wrong with a data set's files.

    Args:
        folder: the data set's.
        pairs: (image, mask), relative to it; mask "" where there is none.
        deep: images of more than 8 bits are no problem.
    """
    pairs = list(pairs)
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:  # a disk is waited for, not computed with
        for found in pool.map(
            lambda batch: [problem for image, mask in batch for problem in _check(folder, image, mask, deep)], batches
        ):
            yield from found


def _check(folder: Path, image: str, mask: str, deep: bool) -> Iterator[tuple[str, str]]:
    problem, size = _look(f"{folder}/{image}", deep)
    if problem:
        yield problem, image
    if not mask:
        return
    mask_problem, mask_size = _look(f"{folder}/{mask}", deep=True)
    if mask_problem:
        yield mask_problem, mask
    elif size and size != mask_size:
        yield "mask of another size than its image", f"{mask} ({_by(mask_size)}, not {_by(size)})"


def _look(file: str, deep: bool) -> tuple[str, tuple[int, int] | None]:
    """What is wrong with a file ("" for nothing), and its width and height."""
    try:
        with Image.open(file) as image:
            if image.mode in DEEP_MODES and not deep:
                return "more than 8 bits a channel, convert to 8", image.size
            return "", image.size
    except (FileNotFoundError, NotADirectoryError):
        return "missing", None
    except UnidentifiedImageError:
        empty = Path(file).stat().st_size == 0
        return "empty" if empty else "not readable as an image", None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what PIL raises for broken headers
        return "not readable as an image", None


def _by(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
