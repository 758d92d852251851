"""Find the images among files and folders, and name their results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from omniad.data.folders import SUFFIXES, LeftOut, images_in
from omniad.errors import UserError
from omniad.names import CONTROL

LONGEST_NAME = 180  # bytes of a result's name: file systems allow 255, and endings come after it
MASKS = "in ground_truth/: masks"


def find_images(
    places: str | Path | Iterable[str | Path], leave_out: Path | None = None, left_out: LeftOut | None = None
) -> list[Path]:
    """The images among files and folders, these at any depth, in order and each once.

    A file is taken whatever its name says; in a folder, image endings count, and the masks of a data set in MVTec-AD's
    layout do not, nor what an earlier `omniad predict` wrote. Nothing below `leave_out` is taken.

    Args:
        places: files and folders, or one of them.
        leave_out: a folder; need not exist.
        left_out: filled with what was left out, and why.

    Raises:
        UserError: a place does not exist, or there is no image in any.
    """
    left_out = LeftOut() if left_out is None else left_out
    places = [Path(place) for place in ([places] if isinstance(places, str | Path) else places)]
    if absent := [str(place) for place in places if not os.path.lexists(place)]:
        raise UserError(f"no such file or folder: {', '.join(absent)}")
    found: dict[str, Path] = {}
    for place in places:
        if CONTROL.search(str(place)):
            left_out.note_odd(place, "whose name is not UTF-8 or has control characters")
            continue
        for file in _in_folder(place, left_out) if place.is_dir() else [place]:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100 (links stay what they are)
    below = f"{leave_out.absolute()}{os.sep}" if leave_out else None
    files = [file for path, file in found.items() if not (below and path.startswith(below))]
    if found and not files:
        raise UserError(f"all images are below {leave_out}, where the results go; choose another folder with --out")
    if not files and not left_out.odd:
        read = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        passed = f"; left out: {left_out}" if left_out.reasons else ""
        raise UserError(f"no images in {', '.join(map(str, places))}; {read} are read{passed}")
    return files


def _in_folder(folder: Path, left_out: LeftOut) -> list[Path]:
    files = []
    for file in images_in(folder, left_out):
        if "ground_truth" in file.relative_to(folder).parts:
            left_out.note(file, MASKS)
        else:
            files.append(file)
    return files


def output_names(files: list[Path]) -> list[str]:
    """A name for each image's results, all different, on file systems that ignore case too.

    It is the image's name without its suffix; images of several folders have what tells the folders apart before it:
    carpet/000.png and tile/000.png become carpet_000 and tile_000. What is still the same gets a number, and what is
    too long for a file's name is cut and gets the start of its sha256.
    """
    if not files:
        return []
    paths = [file.absolute() for file in files]
    common = os.path.commonpath([path.parent for path in paths])
    names: dict[str, str] = {}
    for path in paths:
        stem = name = _cut("_".join(path.relative_to(common).with_suffix("").parts))
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())


def _cut(name: str) -> str:
    content = name.encode()
    if len(content) <= LONGEST_NAME:
        return name
    start = content[: LONGEST_NAME - 9].decode(errors="ignore")  # a character is not cut in two
    return f"{start}-{hashlib.sha256(content).hexdigest()[:8]}"
