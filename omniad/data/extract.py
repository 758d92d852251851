"""Archives into a data set's folder: nothing outside it, no links, no device files, no bombs, all or nothing.

Everything is written to a hidden folder beside the target, which gets its name when it is whole. So a folder of that
name is either whole or the user's own, and a user's own folder is never touched.
"""

from __future__ import annotations

import json
import logging
import lzma
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm import tqdm

from omniad.config import DownloadSettings
from omniad.data.remote import RemoteFile, remote_files
from omniad.errors import UserError
from omniad.files import cannot_write, has_files
from omniad.locks import locked

STAMP = ".omniad-extracted.json"  # in a folder that was extracted here, not by hand
MOST_FILES = 2_000_000
LARGEST_RATIO, SMALL_BYTES = 20, 2**32  # an archive may unpack to 20 times its size, and any one to 4 GiB
PIECE = 2**20
# What the libraries raise for a broken archive; NotImplementedError is zipfile's for a compression it does not know.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError, RuntimeError)

log = logging.getLogger(__name__)


class _Bad(Exception):
    """What is wrong with an archive."""


def extract_source(source: DownloadSettings) -> None:
    """Extract a data set's archives to its folder, unless the folder is already there.

    Raises:
        UserError: an archive is missing, damaged or hostile, or the disk is full. Nothing half-made is left then.
    """
    folder = Path(source.folder)
    if has_files(folder):
        log.info("%s: %s/ is there and used as it is.", source.title, folder)
        return
    files = remote_files(source)
    absent = [str(file.path) for file in files if not file.path.is_file()]
    if absent or not files:
        raise UserError(f"{source.title}: nothing to extract: {', '.join(absent) or 'no archive is known'} is missing")
    temporary = folder.with_name(f".{folder.name}.extracting")
    with locked(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
            temporary.mkdir(parents=True)
            for file in files:
                extract(file.path, _place(temporary, file))
            (temporary / STAMP).write_text(json.dumps({"archives": [file.path.name for file in files]}) + "\n")
            if folder.is_dir():
                folder.rmdir()  # empty, as was looked at above
            temporary.rename(folder)
        except OSError as error:
            raise cannot_write(folder, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def extract(archive: Path, target: Path) -> None:
    """Extract one tar or zip, and the zips inside it, into a folder that only this process writes.

    Raises:
        UserError: the archive is damaged, or holds what no data set needs; `target` may then hold a part of it.
    """
    limit = max(LARGEST_RATIO * archive.stat().st_size, SMALL_BYTES)
    try:
        log.info("%s: extracting", archive)
        _extract(archive, target, limit)
        for inner in sorted(target.rglob("*.zip")):
            _extract(inner, _without_doubling(inner, inner.parent), limit)
            inner.unlink()
    except _Bad as problem:
        raise UserError(
            f"{archive}: {problem}; nothing was extracted, do it by hand if you trust the archive"
        ) from None
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith("file could not be opened"):  # then comes what each of tarfile's readers made of it
            reason = "no archive by its first bytes"
        raise UserError(f"{archive}: damaged or cut off ({reason}); remove it and fetch it anew") from None


def _place(root: Path, file: RemoteFile) -> Path:
    """Where an archive's content goes: Real-IAD's class archives into their resolution's folder, all others on top."""
    return _without_doubling(file.path, root / Path(file.name).parent) if file.hub else root


def _without_doubling(archive: Path, folder: Path) -> Path:
    """`folder` when all of a zip's content is in a folder of the zip's own name, else a folder of that name in it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            inside = all(name.startswith(f"{archive.stem}/") for name in opened.namelist())
    except BROKEN as error:
        raise UserError(f"{archive}: damaged or cut off ({error}); remove it and fetch it anew") from None
    return folder if inside else folder / archive.stem


def _extract(archive: Path, target: Path, limit: int) -> None:
    members = _zip_members(archive) if archive.suffix.lower() == ".zip" else _tar_members(archive)
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for number, (name, content) in enumerate(
        tqdm(members, desc=archive.name, unit="file", disable=not sys.stderr.isatty())
    ):
        if number >= MOST_FILES:
            raise _Bad(f"holds more than {MOST_FILES:,} files")
        path = target / _safe(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as out:
                while piece := content.read(PIECE):
                    total += len(piece)  # what comes, not what the header says
                    if total > limit:
                        raise _Bad(f"unpacks to more than {limit / 2**30:.1f} GiB")
                    out.write(piece)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise _Bad(f"holds {name!r} twice") from None


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file, in one pass; anything but files and folders is refused."""
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            if member.isdir():
                _safe(member.name)
                continue
            content = opened.extractfile(member) if member.isreg() else None
            if content is None:
                kind = "a link" if member.islnk() or member.issym() else "a device or other special file"
                raise _Bad(f"holds {kind}, {member.name!r}")
            yield member.name, content


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = (member.external_attr >> 16) & 0o170000  # of the Unix mode; 0 where none was recorded
            if kind not in (0, 0o100000, 0o040000):
                raise _Bad(f"holds a link or special file, {member.filename!r}")
            if member.is_dir():
                _safe(member.filename)
                continue
            with opened.open(member) as content:
                yield member.filename, content


def _safe(name: str) -> PurePosixPath:
    """A member's path if it stays inside the folder on every system; links are refused, so the text alone decides."""
    path = PurePosixPath(name)
    foreign = PureWindowsPath(name)
    if path.is_absolute() or ".." in path.parts or foreign.drive or "\\" in name or "\0" in name:
        raise _Bad(f"holds {name!r}, a path outside its folder")
    return path
