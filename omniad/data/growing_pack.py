"""The arrays of a pack while they are written, in hidden files, with a third file of hashes of what is complete.

Plain writing, not a memory map: on a full disk that is an error one can report, where a map kills the process; and
memory stays flat however large the data set is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import PIL

from omniad.data.packs import IMAGES, MASKS, NOTE, PACK_VERSION
from omniad.errors import UserError
from omniad.wording import disk_size

BATCH = 16  # rows that are vouched for together
SYNC = 64  # batches after which they are pushed to the disk, so that the workers do not wait for all of it at the end

log = logging.getLogger(__name__)


class GrowingPack:
    """A pack that is being made. Several processes may write batches, in any order; `vouch` goes in order."""

    def __init__(self, out_dir: Path, count: int, size: int, index_sha256: str, files_sha256: str):
        """Continue what an interrupted call left, as far as its hashes confirm it, or begin.

        Raises:
            UserError: the disk has no room for the rest.
            OSError: the files can't be written.
        """
        self.out_dir, self.size = out_dir, size
        self.digests: list[str] = []  # of the batches that are done
        self._parts = {name: out_dir / f".{name}.part" for name in (IMAGES, MASKS)}
        self._notes = out_dir / ".progress.part"
        self._files: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        # Another PIL may decode or resize to other bytes.
        facts = {"index": index_sha256, "files": files_sha256, "size": size, "images": count}
        key = json.dumps(facts | {"version": PACK_VERSION, "pillow": PIL.__version__})
        lines = self._notes.read_text(encoding="utf-8").splitlines() if self._notes.exists() else []
        if lines[:1] != [key]:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
        present = sum(part.stat().st_size for part in self._parts.values() if part.exists())
        _check_room(out_dir, count * size * size * 4 - present)
        for name, shape in ((IMAGES, (count, size, size, 3)), (MASKS, (count, size, size))):
            with self._parts[name].open("r+b" if self._parts[name].exists() else "w+b") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                self._starts[name] = file.tell()
            self._files[name] = os.open(self._parts[name], os.O_RDWR)
        self._keep(count, lines[1:] if lines[:1] == [key] else [])
        self._notes.write_text("".join(f"{line}\n" for line in (key, *self.digests)), encoding="utf-8")
        self._log = self._notes.open("a", encoding="utf-8")

    @property
    def rows(self) -> int:
        """How many rows, from the first, are done."""
        return len(self.digests) * BATCH

    def _keep(self, count: int, digests: list[str]) -> None:
        """Keep the batches, from the first, whose bytes are those that were vouched for."""
        for digest in digests:
            rows, hashed = min(BATCH, count - self.rows), hashlib.sha256()
            for name, length in self._lengths().items():
                hashed.update(os.pread(self._files[name], rows * length, self._starts[name] + self.rows * length))
            if hashed.hexdigest() != digest:
                break
            self.digests.append(digest)
        if self.digests:
            log.info("%s: continuing after %d images", self.out_dir, min(self.rows, count))

    def _lengths(self) -> dict[str, int]:
        """Bytes of one row in each array."""
        return {IMAGES: self.size * self.size * 3, MASKS: self.size * self.size}

    def put(self, start: int, images: np.ndarray, masks: np.ndarray) -> str:
        """Write a batch, (N, S, S, 3) and (N, S, S) uint8, as the rows from `start` on; returns its sha256.

        A batch at a time, because on small images a hash and a write for each of them take as long as resizing it.
        """
        hashed = hashlib.sha256()
        for name, rows in ((IMAGES, images), (MASKS, masks)):
            content, position = rows.data.cast("B"), self._starts[name] + start * self._lengths()[name]
            hashed.update(content)
            while content:  # a write may be cut short, e.g. on a nearly full disk
                written = os.pwrite(self._files[name], content, position)
                content, position = content[written:], position + written
        return hashed.hexdigest()

    def vouch(self, digest: str) -> None:
        """Note that the next batch is done."""
        self.digests.append(digest)
        self._log.write(f"{digest}\n")
        self._log.flush()
        if len(self.digests) % SYNC == 0:
            self._sync()

    def _sync(self) -> None:
        for file in self._files.values():
            os.fsync(file)

    def finish(self) -> str:
        """Give the arrays their names; returns the sha256 of all batches' sha256."""
        (self.out_dir / NOTE).unlink(missing_ok=True)  # of an older pack, whose arrays are now replaced
        self._sync()
        for name, part in self._parts.items():
            part.replace(self.out_dir / name)
        self._notes.unlink()
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    def close(self) -> None:
        self._log.close()
        for file in self._files.values():
            os.close(file)


def _check_room(folder: Path, needed: int) -> None:
    """Refuse at once if the disk would be full after hours of decoding."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the pack needs {disk_size(needed)} more, but only {disk_size(free)} are free; free some space"
        )
