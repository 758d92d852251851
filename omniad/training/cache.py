"""Cache the frozen encoder's features of all training images on disk, in half precision, once for all runs.

Nothing is augmented and the encoder never changes, so an image's features are constants of the data, the encoder's
weights and the resolution. They lie in `<pack folder>/features/<hash>/`, memory-mapped: `0.npy`, `1.npy`, ...
(N, *shape), one for each entry of what `encode` gives. The folder is there as a whole or not at all, and may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniad.data.packs import Pack
from omniad.errors import UserError
from omniad.files import atomic_write
from omniad.locks import locked
from omniad.models import Method

NOTE = "features.json"
ROOM_LEFT = 2**30  # bytes of disk space that the cache leaves free
# Bytes a second that come from a disk in pieces of some 100 kB: a SATA drive's, by its interface (0.6 GB/s). Drives on
# PCI Express are faster, spinning and network disks slower.
DISK_SPEED = 0.5e9
log = logging.getLogger(__name__)

Encode = Callable[[np.ndarray], list[Tensor]]  # positions among the training images (B,) -> features (B, ...) each


def cached_features(
    model: Method,
    pack: Pack,
    encode: Encode,
    images: int,
    batch_size: int,
    limit_gib: float,
    memory: float = math.inf,
) -> list[np.ndarray] | None:
    """The memory-mapped features of `images` training images, made if need be.

    None, reported in one line, if there is no room for them, or if they do not fit in memory and the disk is
    slower than the encoder.

    Args:
        encode: gives features in half precision, on any device.
        limit_gib: a larger cache is not made.
        memory: bytes, a GPU's or the machine's, in which they could stay over the epochs.
    """
    first = encode(np.arange(1))
    shapes = [list(level.shape[1:]) for level in first]
    size = images * sum(level[0].numel() * level.element_size() for level in first)
    if size > limit_gib * 2**30:
        if limit_gib:
            log.info("Features (%.1f GiB) exceed training.cache_gib; recomputing them in every step", size / 2**30)
        return None
    if size > memory and reading_is_slower(size / images, _encoding_time(encode, min(batch_size, images))):
        log.info(
            "Features (%.1f GiB) fit neither the GPU nor main memory (%.1f GiB of room), and computing them is faster "
            "than reading them from disk, so they are recomputed in every step",
            size / 2**30,
            memory / 2**30,
        )
        return None
    key = {
        "data_sha256": pack.digest,
        "images": images,
        "encoder_sha256": _weights_digest(model.encoding_parts()),
        "method": model.settings.method,
        "shapes": shapes,
    }
    folder = pack.folder / "features" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    try:
        with locked(folder, wait=True):
            if not (folder / NOTE).is_file():
                _make(folder, key, encode, size, batch_size)
    except (UserError, OSError) as error:
        log.warning("Recomputing features in every step, because they can't be kept: %s", error)
        return None
    return [np.load(folder / f"{level}.npy", mmap_mode="r") for level in range(len(shapes))]


def reading_is_slower(image_bytes: float, encoding_s: float) -> bool:
    """Whether an image's features come later from a disk (DISK_SPEED) than from an encoder that takes `encoding_s`."""
    return image_bytes / DISK_SPEED > encoding_s


def _encoding_time(encode: Encode, batch_size: int) -> float:
    """Seconds an image, measured on a batch after one to warm up."""
    members, seconds = np.arange(batch_size), 0.0
    for _ in range(2):
        start = time.perf_counter()
        encode(members)[-1].cpu()  # waits for a GPU
        seconds = time.perf_counter() - start
    return seconds / batch_size


def _make(folder: Path, key: dict[str, Any], encode: Encode, size: int, batch_size: int) -> None:
    """Write the features beside the folder, then rename. Raises UserError or OSError when the disk has no room."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    free = shutil.disk_usage(folder.parent).free
    if free < size + ROOM_LEFT:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but {(size + ROOM_LEFT) / 1e9:.1f} GB are needed"
        )
    log.info("Computing the features of %d images once for all runs: %.1f MB", key["images"], size / 1e6)
    part.mkdir()
    try:
        with ExitStack() as stack:
            files = [stack.enter_context((part / f"{level}.npy").open("wb")) for level in range(len(key["shapes"]))]
            for file, shape in zip(files, key["shapes"], strict=True):
                header = {"descr": "<f2", "fortran_order": False, "shape": (key["images"], *shape)}
                np.lib.format.write_array_header_1_0(file, header)
            for levels in _batches(encode, key["images"], batch_size):
                for file, level in zip(files, levels, strict=True):
                    file.write(level.cpu().contiguous().numpy().tobytes())  # not through a memory map: a full disk
        with atomic_write(part / NOTE) as file:  # would end the process without a word
            json.dump(key, file, indent=2)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _batches(encode: Encode, images: int, batch_size: int) -> Iterator[list[Tensor]]:
    for start in range(0, images, batch_size):
        levels = encode(np.arange(start, min(start + batch_size, images)))
        if not all(torch.isfinite(level).all() for level in levels):
            raise UserError("they exceed the range of half precision")
        yield levels


def _weights_digest(parts: Iterable[torch.nn.Module]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
