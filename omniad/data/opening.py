"""Open an image file that may be anything: no FIFO, no image too large, no PNG with wrong checksums."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from omniad.data.folders import kind_of

MOST_PIXELS = 400_000_000  # of an image: 20,000 x 20,000, which is 1.2 GB as RGB
ORIENTATION = 0x0112  # EXIF's entry
START = 16_384  # bytes at a file's start, which hold nearly every header
JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
NO_IMAGE = "not readable as an image"
# What PIL raises for broken files. A decoder that meets what its author did not think of may raise anything else.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError)

# PIL's own limit warns at 89 million pixels and calls 179 million an attack. Ours is checked for every file instead.
Image.MAX_IMAGE_PIXELS = None


class Unfit(ValueError):
    """A file that is refused as an image, whether or not PIL could read it."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, detail


class Header(NamedTuple):
    """An image file's header and file status."""

    size: tuple[int, int]  # width and height, as stored
    mode: str
    orientation: int  # EXIF's; 1, upright, where there is none or it wasn't asked for
    status: os.stat_result


def read_header(file: str | Path, turned: bool) -> Header:
    """An image file's header, and its orientation if it is `turned` upright when read.

    A data set calls this for every file, so a JPEG's or PNG's start is read first, and more only if needed.

    Raises:
        Unfit: it is not a regular file, is empty, or has more than MOST_PIXELS. PIL raises what is in BROKEN.
    """
    number, status = _open_plain(file)
    try:
        start = os.read(number, START)
    finally:
        os.close(number)
    whole = status.st_size <= len(start)
    if whole or start.startswith((JPEG_START, PNG_START)):  # other formats' headers may point anywhere
        try:
            return _header(io.BytesIO(start), turned, status)
        except Unfit:
            raise
        except BROKEN:
            if whole:
                raise
    with open(file, "rb") as handle:  # noqa: PTH123
        return _header(handle, turned, status)


def _header(handle: BinaryIO, turned: bool, status: os.stat_result) -> Header:
    with Image.open(handle) as image:
        _check_size(image)
        # A PNG may have its EXIF entry behind its pixels, which only decoding would show.
        late = turned and image.format == "PNG" and "exif" not in image.info
        return Header(image.size, image.mode, orientation_of(image) if turned and not late else 1, status)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation of an open image; 1, upright, where there is none."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


@contextmanager
def open_whole(file: str | Path) -> Iterator[Image.Image]:
    """An image that is about to be decoded, from a file that is whole as far as its checksums tell.

    Raises:
        Unfit: as `read_header`; or it is a PNG that is damaged, which PIL decodes to other pixels.
    """
    with os.fdopen(_open_plain(file)[0], "rb") as handle:
        if handle.read(len(PNG_START)) != PNG_START:
            handle.seek(0)
            with _open(handle) as image:
                _check_size(image)
                yield image
            return
        content = PNG_START + handle.read()
    _check_png(content)
    with _open(io.BytesIO(content)) as image:
        _check_size(image)
        yield image


def _open(handle: BinaryIO) -> Image.Image:
    """The image; PIL's own message would name the handle, not the file."""
    try:
        return Image.open(handle)
    except UnidentifiedImageError:
        raise Unfit(NO_IMAGE) from None


def _open_plain(file: str | Path) -> tuple[int, os.stat_result]:
    """A descriptor, and the status. Open first and look then: a second way along the path is what takes long."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for its writer
    except OSError:
        _check_kind(os.stat(file))  # noqa: PTH116 (a socket can't be opened)
        raise
    try:
        status = os.fstat(number)
        _check_kind(status)
    except BaseException:
        os.close(number)
        raise
    return number, status


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else kind_of(status.st_mode)
        raise Unfit(f"not a regular file but {kind}")
    if status.st_size == 0:
        raise Unfit("empty")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if (pixels := width * height) > MOST_PIXELS:
        raise Unfit(
            "too large",
            f"{width}x{height}, {pixels / 1e6:,.0f} million pixels; at most {MOST_PIXELS / 1e6:,.0f} "
            "million are allowed: make it smaller, or cut it into tiles",
        )


def _check_png(content: bytes) -> None:
    """Compare each chunk's checksum: PIL leaves out those of the pixels."""
    position, view = len(PNG_START), memoryview(content)
    while position + 12 <= len(content):
        length = int.from_bytes(view[position : position + 4], "big")
        kind, end = bytes(view[position + 4 : position + 8]), position + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise Unfit("damaged", f"the checksum of its {kind.decode('latin-1')} chunk is wrong")
        if kind == b"IEND":
            return
        position = end + 4
    raise Unfit("cut off", "a PNG without its end")
