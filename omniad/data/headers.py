"""The header and the status of every image and mask of a data set: one look at each, by many threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from omniad.data.masks import NO_MASKS, OTHER_SIZE, mask_files, mask_problem, orientation_of
from omniad.data.opening import BROKEN, Unfit, open_header

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits: PIL would cut them off at 255
BATCH = 256


class FileFacts(NamedTuple):
    """What the header and the status of one file tell."""

    path: str
    problem: str = ""  # its kind
    what: str = ""  # the path, with what more there is to say
    size: tuple[int, int] | None = None  # width and height
    orientation: int = 1
    status: tuple[int, int] = (0, 0)  # bytes and time


def look_at_files(folder: Path, pairs: Iterable[tuple[str, str]], own: bool) -> list[FileFacts]:
    """All images and masks, looked at by many threads: a disk is waited for, not computed with.

    Args:
        folder: the data set's.
        pairs: (image, mask), relative to it; mask "" where there is none.
        own: images of more than 8 bits are no problem, and are turned upright with their masks.
    """
    pairs = list(pairs)
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:
        found = pool.map(
            lambda batch: [file for image, mask in batch for file in _look_at(folder, image, mask, own)], batches
        )
        return [file for files in found for file in files]


def _look_at(folder: Path, image_path: str, mask_path: str, own: bool) -> Iterator[FileFacts]:
    image = _look(folder, image_path, deep=own, turned=own)
    yield image
    masks = mask_files(folder, mask_path) if mask_path else []
    if mask_path and not masks:
        yield FileFacts(mask_path, NO_MASKS, mask_path)
    for path in masks:
        mask = _look(folder, path, deep=True, turned=own)
        if not mask.problem and image.size and mask.size:
            problem = mask_problem(image.size, image.orientation, mask.size, mask.orientation)
            sizes = f" ({_by(mask.size)}, not {_by(image.size)})" if problem == OTHER_SIZE else ""
            mask = mask._replace(problem=problem, what=f"{path}{sizes}")
        yield mask


def _look(folder: Path, path: str, deep: bool, turned: bool) -> FileFacts:
    try:
        with open_header(f"{folder}/{path}") as (image, status):
            problem = "" if deep or image.mode not in DEEP_MODES else "more than 8 bits a channel, convert to 8"
            # A PNG may have its EXIF entry behind its pixels, which only decoding would show.
            late = image.format == "PNG" and "exif" not in image.info
            orientation = orientation_of(image) if turned and not late else 1
            return FileFacts(path, problem, path, image.size, orientation, (status.st_size, status.st_mtime_ns))
    except Unfit as error:
        return FileFacts(path, error.kind, f"{path} ({error.detail})" if error.detail else path)
    except (FileNotFoundError, NotADirectoryError):
        return FileFacts(path, "missing", path)
    except BROKEN:
        return FileFacts(path, "not readable as an image", path)


def files_hash(files: list[FileFacts]) -> str:
    """A sha256 of all paths, sizes and times."""
    lines = (f"{file.path}\t{file.status[0]}\t{file.status[1]}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
