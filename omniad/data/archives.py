"""The content of a tar or zip, file by file: damage, and anything that no data set needs, is an error.

Archives are read to the last byte, because the checksums of gzip, xz and bzip2 come last.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from omniad.files import in_one_line

PIECE = 2**20
LONG_HEADERS = (b"x", b"g", b"X", b"L", b"K")  # types of a tar's headers that have content: long names and the like
LONGEST_HEADER = 2**20
# What reading a broken archive raises. OSError is gzip's and bz2's, NotImplementedError zipfile's for a compression it
# does not know, RuntimeError for an encrypted member.
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error,
    EOFError, NotImplementedError, RuntimeError, OSError, ValueError,
)  # fmt: skip
# How a compressed tar begins -> what reads it.
STREAMS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}


class Unwanted(Exception):
    """An archive contains something that no data set needs."""


class Damaged(Exception):
    """An archive is damaged."""


def is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file, in one pass to the last byte; to be read with `read`.

    Raises:
        Unwanted: there is a link, a special file, or a path outside the folder.
        Damaged: as far as checksums and structure tell.
    """
    return _zip_members(archive) if is_zip(archive) else _tar_members(archive)


def zip_names(archive: Path) -> list[str]:
    """The names in a zip. Raises Damaged."""
    with _opened_zip(archive) as opened:
        return opened.namelist()


def read(content: IO[bytes]) -> bytes:
    """The next piece of a file in an archive; an error here is the archive's fault, not the disk's."""
    return _or_damaged(lambda: content.read(PIECE))


def _or_damaged(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BROKEN as error:
        raise Damaged(in_one_line(error)) from None


EndOfArchive: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]


class _Member(tarfile.TarInfo):
    """A tar's header. tarfile takes a damaged one for the archive's end; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            member = super().fromtarfile(tarfile)
        except EndOfArchive:  # zeros: the end indeed, if nothing but zeros follows
            raise
        except BROKEN as error:
            raise Damaged(f"{error}, at byte {tarfile.offset:,} of the tar") from None
        if member.size < 0:
            raise Damaged(f"{member.name[:80]!r} has a negative size")
        return member

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in LONG_HEADERS and header.size > LONGEST_HEADER:  # tarfile would read all of it
            raise Damaged(f"a header of {header.size:,} bytes")
        return header


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with _opened_tar(archive) as opened:
        while member := _or_damaged(opened.next):
            if member.isdir():
                safe_path(member.name)
                continue
            content = opened.extractfile(member) if member.isreg() else None
            if content is None:
                kind = "a link" if member.islnk() or member.issym() else "a device or other special file"
                raise Unwanted(f"contains {kind}, {member.name[:80]!r}")
            yield member.name, content
            opened.members = []  # type: ignore[attr-defined]  (tarfile keeps all of them)
        while rest := read(opened.fileobj):  # type: ignore[arg-type]
            if rest.strip(b"\0"):
                raise Damaged("data follows after its end")


@contextmanager
def _opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        start = file.read(8)
    decompress = next((stream for magic, stream in STREAMS.items() if start.startswith(magic)), open)
    with (
        decompress(archive, "rb") as stream,
        _or_damaged(lambda: tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE, tarinfo=_Member)) as opened,
    ):
        yield opened


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with _opened_zip(archive) as opened:
        for member in opened.infolist():
            kind = (member.external_attr >> 16) & 0o170000  # of the Unix mode; 0 where none was recorded
            if kind not in (0, 0o100000, 0o040000):
                raise Unwanted(f"contains a link or special file, {member.filename[:80]!r}")
            if member.is_dir():
                safe_path(member.filename)
                continue
            with _or_damaged(lambda member=member: opened.open(member)) as content:
                yield member.filename, content


def _opened_zip(archive: Path) -> zipfile.ZipFile:
    return _or_damaged(lambda: zipfile.ZipFile(archive))


def safe_path(name: str) -> PurePosixPath:
    """A member's path if it stays inside the folder on every system; links are refused, so the text alone decides."""
    path = PurePosixPath(name)
    foreign = PureWindowsPath(name)
    if path.is_absolute() or ".." in path.parts or foreign.drive or "\\" in name or "\0" in name:
        raise Unwanted(f"contains {name[:80]!r}, a path outside its folder")
    return path
