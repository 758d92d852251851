"""Opening an image file that may be anything: no FIFO, no image too large, no PNG whose checksums are wrong."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from omniad.data.folders import kind_of

MOST_PIXELS = 400_000_000  # of an image: 20,000 x 20,000, which is 1.2 GB as RGB
PNG_START = b"\x89PNG\r\n\x1a\n"
# What PIL raises for broken files. A decoder that meets what its author did not think of may raise anything else.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError)

# PIL's own limit warns at 89 million pixels and calls 179 million an attack. Ours is checked for every file instead.
Image.MAX_IMAGE_PIXELS = None


class Unfit(ValueError):
    """A file that is not read as an image, whatever PIL makes of it."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, detail


@contextmanager
def open_header(file: str | Path) -> Iterator[tuple[Image.Image, os.stat_result]]:
    """An image of which only the header is read, and its file's status.

    Raises:
        Unfit: it is no plain file, empty, or has more than MOST_PIXELS. PIL raises what is in BROKEN.
    """
    status = _plain(file)
    with Image.open(file) as image:
        _check_size(image)
        yield image, status


@contextmanager
def open_whole(file: str | Path) -> Iterator[Image.Image]:
    """An image that is about to be decoded, from a file that is whole as far as its checksums tell.

    Raises:
        Unfit: as `open_header`; or it is a PNG that is damaged, which PIL decodes to other pixels.
    """
    _plain(file)
    with open(file, "rb") as handle:  # noqa: PTH123
        if handle.read(len(PNG_START)) != PNG_START:
            handle.seek(0)
            with Image.open(handle) as image:
                _check_size(image)
                yield image
            return
        content = PNG_START + handle.read()
    _check_png(content)
    with Image.open(io.BytesIO(content)) as image:
        _check_size(image)
        yield image


def _plain(file: str | Path) -> os.stat_result:
    status = os.stat(file)  # noqa: PTH116 (called for every file of a data set)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else kind_of(status.st_mode)
        raise Unfit(f"no plain file but {kind}")
    if status.st_size == 0:
        raise Unfit("empty")
    return status


def _check_size(image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise Unfit(
            "too large",
            f"{image.width}x{image.height}, {pixels / 1e6:,.0f} million pixels; at most {MOST_PIXELS / 1e6:,.0f} "
            "million are read: make it smaller, or cut it into tiles",
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
