"""Which images are meant, and what their results are called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from omniad.data.images import SUFFIXES, images_in
from omniad.errors import UserError


def find_images(places: Iterable[str | Path], leave_out: Path | None = None) -> list[Path]:
    """The images among files and folders, these at any depth, in order and each once.

    A file is taken whatever its name says; in a folder, image suffixes count, and the masks of a data set in MVTec-AD's
    layout do not. Nothing below `leave_out` is taken.

    Raises:
        UserError: a place does not exist, or there is no image in any.
    """
    places = [Path(place) for place in places]
    if absent := [str(place) for place in places if not place.exists()]:
        raise UserError(f"no such file or folder: {', '.join(absent)}")
    found: dict[str, Path] = {}
    for place in places:
        for file in _in_folder(place) if place.is_dir() else [place]:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100 (links stay what they are)
    left_out = f"{leave_out.absolute()}{os.sep}" if leave_out else None
    files = [file for path, file in found.items() if not (left_out and path.startswith(left_out))]
    if not files:
        read = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        raise UserError(f"no images in {', '.join(map(str, places))}; {read} are read")
    return files


def _in_folder(folder: Path) -> list[Path]:
    return [file for file in images_in(folder) if "ground_truth" not in file.relative_to(folder).parts]


def output_names(files: list[Path]) -> list[str]:
    """A name for each image's results, all different, on file systems that ignore case too.

    It is the image's name without its suffix; images of several folders have what tells the folders apart before it:
    carpet/000.png and tile/000.png become carpet_000 and tile_000. What is still the same gets a number.
    """
    paths = [file.absolute() for file in files]
    common = os.path.commonpath([path.parent for path in paths])
    names: dict[str, str] = {}
    for path in paths:
        stem = name = "_".join(path.relative_to(common).with_suffix("").parts)
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())
