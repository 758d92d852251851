"""The header and file status of every image and mask of a data set, each read once, by many threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from omniad.data.masks import NO_MASKS, OTHER_SIZE, mask_files, mask_problem
from omniad.data.opening import BROKEN, NO_IMAGE, Header, Unfit, read_header

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits: PIL would cut them off at 255
BATCH = 256


class Looked(NamedTuple):
    """What was found in the headers and the status of all files."""

    problems: list[tuple[str, str]]  # its kind; the path, with details
    files: int
    sha256: str  # of all paths, sizes and times


def look_at_files(folder: Path, pairs: Iterable[tuple[str, str]], own: bool) -> Looked:
    """All images and masks, looked at by many threads: a disk is waited for, not computed with.

    Args:
        folder: the data set's.
        pairs: (image, mask), relative to it; mask "" where there is none.
        own: images of more than 8 bits are no problem, and are turned upright with their masks.
    """
    pairs = list(pairs)
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    problems, files, hashed = [], 0, hashlib.sha256()
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:
        for look in pool.map(lambda batch: _Look(folder, own, batch), batches):
            problems += look.problems
            files += len(look.states)
            hashed.update("".join(look.states).encode())
    return Looked(problems, files, hashed.hexdigest())


class _Look:
    """At some pairs: what is wrong with them, and a line a file with its size and time."""

    def __init__(self, folder: Path, own: bool, pairs: list[tuple[str, str]]) -> None:
        self.folder, self.own = folder, own
        self.problems: list[tuple[str, str]] = []
        self.states: list[str] = []
        for image, mask in pairs:
            header = self._at(image, deep=own)
            if mask:
                self._at_masks(header, mask)

    def _at_masks(self, image: Header | None, mask: str) -> None:
        files = mask_files(self.folder, mask)
        for file in files:
            self._compare(image, file, self._at(file, deep=True))
        if not files:
            self.problems.append((NO_MASKS, mask))

    def _at(self, path: str, deep: bool) -> Header | None:
        """A file's header; None when it can't be read."""
        size = time = 0
        try:
            header = read_header(f"{self.folder}/{path}", turned=self.own)
            size, time = header.status.st_size, header.status.st_mtime_ns
            if not deep and header.mode in DEEP_MODES:
                self.problems.append(("more than 8 bits a channel, convert to 8", path))
            return header
        except Unfit as error:
            self.problems.append((error.kind, f"{path} ({error.detail})" if error.detail else path))
        except (FileNotFoundError, NotADirectoryError):
            self.problems.append(("missing", path))
        except BROKEN:
            self.problems.append((NO_IMAGE, path))
        finally:
            self.states.append(f"{path}\t{size}\t{time}\n")
        return None

    def _compare(self, image: Header | None, mask_path: str, mask: Header | None) -> None:
        if image is None or mask is None:
            return
        problem = mask_problem(image.size, image.orientation, mask.size, mask.orientation)
        if problem:
            sizes = f" ({_by(mask.size)}, not {_by(image.size)})" if problem == OTHER_SIZE else ""
            self.problems.append((problem, f"{mask_path}{sizes}"))


def _by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
