"""Extract archives into a data set's folder: nothing outside it, no links, no device files, no bombs, all or nothing.

Everything is written to a hidden folder beside the target, which gets its name when it is whole. So a folder of that
name is either whole or the user's own, and a user's own folder is never touched.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from omniad.config import DownloadSettings
from omniad.data.archives import Damaged, Unwanted, is_zip, members, read, safe_path, zip_names
from omniad.data.fetch import check_file
from omniad.data.remote import remote_files
from omniad.errors import UserError
from omniad.files import cannot_write, has_files
from omniad.locks import locked

STAMP = ".omniad-extracted.json"  # in a folder that was extracted here, not by hand
MOST_FILES = 2_000_000
LARGEST_RATIO, SMALL_BYTES = 20, 2**32  # an archive may unpack to 20 times its size, and any one to 4 GiB

log = logging.getLogger(__name__)


class _Room:
    """What an archive, and all archives inside it, may unpack to together."""

    def __init__(self, archive: Path):
        self.bytes = self.limit = max(LARGEST_RATIO * archive.stat().st_size, SMALL_BYTES)
        self.files = MOST_FILES

    def take_file(self) -> None:
        self.files -= 1
        if self.files < 0:
            raise Unwanted(f"contains more than {MOST_FILES:,} files")

    def take(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise Unwanted(f"unpacks to more than {self.limit / 2**30:.1f} GiB")


def extract_source(source: DownloadSettings) -> None:
    """Extract a data set's archives to its folder, unless the folder is already there.

    Raises:
        UserError: an archive is missing, damaged, hostile or not the one it should be, or the disk is full. Nothing
            half-made is left then.
    """
    folder = Path(source.folder)
    if has_files(folder):
        log.info("%s: %s/ is there and used as it is.", source.title, folder)
        return
    files = remote_files(source)
    absent = [str(file.path) for file in files if not file.path.is_file()]
    if absent or not files:
        what = f"{', '.join(absent)} is missing; `omniad fetch` gets it" if absent else "no archive is known"
        raise UserError(f"{source.title}: nothing to extract: {what}, or put its files into {folder}/")
    temporary = folder.with_name(f".{folder.name}.extracting")
    with locked(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
            temporary.mkdir(parents=True)
            for file in files:
                check_file(file)
                # Real-IAD's class archives go into their resolution's folder, all others on top.
                extract(file.path, temporary / Path(file.name).parent if file.hub else temporary, named=bool(file.hub))
            (temporary / STAMP).write_text(json.dumps({"archives": [file.path.name for file in files]}) + "\n")
            if folder.is_dir():
                folder.rmdir()  # empty, as was looked at above
            temporary.rename(folder)
        except OSError as error:
            raise cannot_write(folder, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def extract(archive: Path, target: Path, named: bool = False) -> None:
    """Extract one tar or zip, and the zips inside it, into a folder that only this process writes.

    Args:
        archive: its ending tells a zip.
        target: the folder.
        named: the content of a zip goes into a folder of the zip's name in `target`, as that of inner zips does.

    Raises:
        UserError: the archive is damaged, or holds what no data set needs; `target` may then hold a part of it.
    """
    room = _Room(archive)
    try:
        log.info("%s: extracting", archive)
        target = _without_doubling(archive, target) if named else target
        _extract(archive, target, room)
        for inner in sorted(path for path in target.rglob("*") if is_zip(path) and path.is_file()):
            _extract(inner, _without_doubling(inner, inner.parent), room)
            inner.unlink()
    except Unwanted as problem:
        raise UserError(
            f"{archive}: {problem}; nothing was extracted; do it by hand if you trust the archive"
        ) from None
    except Damaged as problem:
        raise UserError(f"{archive}: damaged or cut off ({problem}); remove it and fetch it again") from None


def _without_doubling(archive: Path, folder: Path) -> Path:
    """`folder` when all of a zip's content is in a folder of the zip's own name, else a folder of that name in it."""
    inside = all(name.startswith(f"{archive.stem}/") for name in zip_names(archive))
    return folder if inside else folder / archive.stem


def _extract(archive: Path, target: Path, room: _Room) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, content in tqdm(members(archive), desc=archive.name, unit="file", disable=not sys.stderr.isatty()):
        room.take_file()
        path = target / safe_path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                while piece := read(content):
                    room.take(len(piece))  # what comes, not what the header says
                    out.write(piece)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise Unwanted(f"contains {name[:80]!r} twice") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise Unwanted(f"contains {name[:80]!r}..., a name too long for this file system") from None
            raise
