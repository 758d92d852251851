"""Walk arbitrary folders: which entries are images, which are left out, and why; every entry is counted."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from omniad.names import CONTROL

# The endings that count as an image's, everywhere. Case does not matter.
SUFFIXES = (
    ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
# What file managers, archivers and storage systems leave in people's folders, in lower case.
FOREIGN = {
    "@eadir", "__macosx", "__pycache__", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
PREDICTED_HEADER = "path,score,verdict,name"  # the first line of the scores.csv that `omniad predict` writes
PREDICTED_FOLDERS = ("maps", "overlays", "full_size_maps")  # its images and arrays, beside that file

HIDDEN = "hidden or system files"
ENDING = "with another ending"
DEEPER = "in a deeper folder"
CIRCLE = "linked in a circle, or twice"
EARLIER = "written by an earlier predict"
SHOWN = 3  # examples of each reason


def is_image(name: str) -> bool:
    """Whether a file's name has an image's ending."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (called for every file)


def is_ignored(name: str) -> bool:
    """Whether a folder's entry is hidden or was put there by the system, not by a person."""
    return name.startswith(".") or name.lower() in FOREIGN


def is_predicted(folder: Path) -> bool:
    """Whether `omniad predict` wrote this folder's images: overlays, or what lies beside them."""
    if folder.name not in PREDICTED_FOLDERS:
        return False
    try:
        with (folder.parent / "scores.csv").open("rb") as scores:
            return scores.readline(100).strip() == PREDICTED_HEADER.encode()
    except OSError:
        return False


class LeftOut:
    """What was left out: how often for which reason, with a few examples; and images that are not regular files."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.odd: dict[Path, str] = {}  # named as images, but dangling links, FIFOs and the like

    def note(self, path: Path | str, reason: str, number: int = 1) -> None:
        self.reasons[reason] += number
        if len(self.examples[reason]) < SHOWN:
            self.examples[reason].append(readable(path))

    def note_odd(self, path: Path, reason: str) -> None:
        self.odd[path] = reason
        self.note(path, reason)

    def merge(self, other: LeftOut) -> None:
        self.reasons += other.reasons
        self.odd |= other.odd
        for reason, examples in other.examples.items():
            self.examples[reason] = (self.examples[reason] + examples)[:SHOWN]

    def __str__(self) -> str:
        """ "with another ending: 2 (a.txt, b.xcf); a FIFO: 1 (c.png)"; "" when nothing was."""
        return "; ".join(
            f"{reason}: {number:,} ({', '.join(self.examples[reason])}"
            + (", ...)" if number > len(self.examples[reason]) else ")")
            for reason, number in sorted(self.reasons.items())
        )


def readable(path: Path | str) -> str:
    """A path as text that is safe in any file and terminal: invalid UTF-8 and control characters are escaped."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def entries(folder: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """The image files and the folders in a folder, sorted; links are followed; all others are noted."""
    images, folders = [], []
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            path = folder / entry.name
            if is_ignored(entry.name):
                left_out.note(path, HIDDEN)
            elif problem := _odd(entry):
                note = left_out.note_odd if is_image(entry.name) or _is_folder(entry) else left_out.note
                note(path, problem)
            elif entry.is_dir():
                if entry.is_symlink() and _leads_up(path):
                    left_out.note(path, CIRCLE)
                elif is_predicted(path):
                    left_out.note(path, EARLIER)
                else:
                    folders.append(path)
            elif is_image(entry.name):
                images.append(path)
            else:
                left_out.note(path, ENDING)
    return images, folders


def _odd(entry: os.DirEntry[str]) -> str:
    """Why an entry is not a usable file or folder; "" if it is."""
    if CONTROL.search(entry.name):
        return "whose name is not UTF-8 or has control characters"
    try:
        if entry.is_file() or entry.is_dir():
            return ""
        return kind_of(entry.stat().st_mode)
    except OSError:  # of stat: a link whose target is not there, or is itself
        return "a broken or circular link"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_up(link: Path) -> bool:
    """Whether a link to a folder leads to one that it lies in."""
    target = link.stat()
    above = (*link.absolute().parents, *link.parent.resolve().parents)
    return any(os.path.samestat(target, folder.stat()) for folder in above)


def kind_of(mode: int) -> str:
    """The kind of an entry that is neither a file nor a folder."""
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")


def images_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """The images of a folder at any depth, sorted; links are followed, and no folder is read twice."""
    return sorted(_walk(folder, left_out, set()))


def _walk(folder: Path, left_out: LeftOut, seen: set[tuple[int, int]]) -> Iterator[Path]:
    waiting = [folder]  # a list, since folders can be nested deeper than Python calls functions
    while waiting:
        folder = waiting.pop()
        try:
            known = folder.stat()
            if (known.st_dev, known.st_ino) in seen:
                left_out.note(folder, CIRCLE)
                continue
            seen.add((known.st_dev, known.st_ino))
            images, folders = entries(folder, left_out)
        except OSError as error:
            left_out.note_odd(folder, f"a folder that can't be read: {error.strerror}")
            continue
        yield from images
        waiting += reversed(folders)


def holds_images(folder: Path) -> bool:
    """Whether there is an image at any depth."""
    return next(_walk(folder, LeftOut(), set()), None) is not None


def folder_state(folder: Path) -> str:
    """A short hash of the names, sizes and times of a folder's images; "" without such a folder."""
    if not folder.is_dir():
        return ""
    hashed = hashlib.sha256()
    for image in images_in(folder, LeftOut()):
        status = image.stat()
        hashed.update(f"{image}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return hashed.hexdigest()[:12]


def note_deeper(folders: list[Path], left_out: LeftOut, reason: str = DEEPER) -> None:
    """Note the images below folders that a layout does not read."""
    for folder in folders:
        if found := len(images_in(folder, LeftOut())):
            left_out.note(folder, reason, found)
