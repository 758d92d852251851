"""Make a pack: decode and resize every image and mask once, on all cores; a killed call can be resumed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from omniad.config import SourceSettings
from omniad.data.growing_pack import BATCH, GrowingPack
from omniad.data.images import read_image, read_masks, read_own_image
from omniad.data.index import read_index, recorded_files
from omniad.data.opening import BROKEN
from omniad.data.packs import EXACT, NOTE, PACK_VERSION, PUBLISHED
from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write, in_one_line, sha256_file, sweep
from omniad.locks import locked
from omniad.parallel import in_order, usable_cores
from omniad.wording import count

PR_SET_PDEATHSIG = 1  # Linux's prctl: the signal that this process gets when its parent dies
AHEAD = 8  # batches a core that may be done before the oldest is
NUMBERED = ("visa", "realiad")  # layouts whose masks are, to their authors, defect in every level above 0
SHOWN = 5  # masks in the line about how they were read

log = logging.getLogger(__name__)


def write_pack(
    source: SourceSettings, index_csv: Path, out_dir: Path, size: int, index: pd.DataFrame | None = None
) -> None:
    """Decode and resize every image and mask of an index. `pack.json` comes last: without it there is no pack.

    Raises:
        UserError: images or masks can't be decoded (all of them are named), the disk is full, or a worker was ended.
            What is finished is kept, and the same call continues from there.
    """
    index = read_index(index_csv) if index is None else index
    make_pack(index_csv, out_dir, len(index), size, lambda growing: _fill(growing, index, source))
    log.info("%s: %d images at %d pixels are in %s/", source.title, len(index), size, out_dir)


def make_pack(index_csv: Path, out_dir: Path, rows: int, size: int, fill: Callable[[GrowingPack], None]) -> None:
    """Make a pack of so many rows, which `fill` writes; one that is taken up again holds `GrowingPack.rows` of them.

    Raises:
        UserError: the disk is full, a worker was ended, or what `fill` raises.
    """
    index_sha256, files_sha256 = sha256_file(index_csv), recorded_files(index_csv)
    with locked(out_dir / "pack"):
        try:
            sweep(out_dir)
            growing = GrowingPack(out_dir, rows, size, index_sha256, files_sha256)
            try:
                fill(growing)
                content_sha256 = growing.finish()
            finally:
                growing.close()
        except OSError as error:
            raise cannot_write(out_dir, error) from None
        except BrokenProcessPool:
            raise UserError(
                f"{out_dir}: the system killed a worker process, probably because memory ran out; "
                "run the command again to continue"
            ) from None
        digest = hashlib.sha256(f"{content_sha256}{index_sha256}{size}".encode()).hexdigest()
        note = {"version": PACK_VERSION, "size": size, "images": rows}
        note |= {"index_sha256": index_sha256, "digest": digest}
        note |= {"files_sha256": files_sha256} if files_sha256 else {}
        with atomic_write(out_dir / NOTE) as file:
            json.dump(note, file, indent=1)


def _fill(growing: GrowingPack, index: pd.DataFrame, source: SourceSettings) -> None:
    """Decode what is missing. After the first image that can't be read, the others are only looked through."""
    paths = list(zip(index["image"], index["mask"], strict=True))
    starts = range(growing.rows, len(paths), BATCH)
    cores = min(usable_cores(), max(1, len(starts)))
    problems: list[str] = []
    notes: list[str] = []
    # Processes, because small images spend as long in the interpreter as in PIL; forked, because they write to the
    # files that are open here.
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(cores, context, initializer=_begin, initargs=(growing, paths, source)) as pool,
        tqdm(total=len(paths), initial=growing.rows, desc="pack", disable=not sys.stderr.isatty()) as bar,
    ):
        for digest, unreadable, told in in_order(pool, _make_batch, starts, AHEAD * cores):
            problems += unreadable
            notes += told
            if not problems:
                growing.vouch(digest)
            bar.update(BATCH)
    if notes:
        shown = "; ".join(notes[:SHOWN]) + ("; ..." if notes[SHOWN:] else "")
        log.warning("%s: %s not two-level: %s", source.title, count(len(notes), "mask is", "masks are"), shown)
    if problems:
        them = "it" if len(problems) == 1 else "them"
        mend = f"remove or replace {them}" if source.layout == "own" else f"fetch {them} again"
        raise UserError(f"{count(len(problems), 'image')} can't be read: {'; '.join(problems)}; {mend}")


def _begin(growing: GrowingPack, paths: list[tuple[str, str]], source: SourceSettings) -> None:
    """In a new worker: keep what all batches need, and end with the parent, however that ends."""
    global _make_rows
    _make_rows = partial(_decode, growing, paths, source)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


Made = tuple[str, list[str], list[str]]  # a batch's sha256, what of it can't be read, which masks are not two-level
_make_rows: Callable[[int], Made]  # in a worker alone


def _make_batch(start: int) -> Made:
    """Decode and write the batch from `start` on."""
    return _make_rows(start)


def _decode(growing: GrowingPack, paths: list[tuple[str, str]], source: SourceSettings, start: int) -> Made:
    problems, notes, folder, own = [], [], source.folder, source.layout == "own"
    read = read_own_image if own else read_image
    numbered = source.layout in NUMBERED
    rows = paths[start : start + BATCH]
    images = np.empty((len(rows), growing.size, growing.size, 3), np.uint8)
    masks = np.zeros((len(rows), growing.size, growing.size), np.uint8)
    for k, (image, mask) in enumerate(rows):
        path = f"{folder}/{image}"
        try:
            images[k] = read(path, growing.size)
            if mask:
                turned_like, path = path if own else None, f"{folder}/{mask}"
                exact, published, note = read_masks(path, growing.size, turned_like, numbered)
                masks[k] = EXACT * exact + PUBLISHED * published
                notes += [f"{path} ({note})"] if note else []
        except BROKEN as error:
            problems.append(f"{path} ({in_one_line(error)})")
    return "" if problems else growing.put(start, images, masks), problems, notes
