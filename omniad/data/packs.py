"""Packs: a data set's images and masks as uint8 arrays at one resolution, resized once for all runs, memory-mapped."""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from omniad.data.index import read_index, recorded_files
from omniad.errors import UserError
from omniad.files import sha256_file

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGES, MASKS, NOTE = "images.npy", "masks.npy", "pack.json"
# Raise it when a change alters what a pack holds: the workflow then makes packs again, and older ones are refused.
PACK_VERSION = 2
EXACT, PUBLISHED = 1, 2  # bits of the stored masks: the metrics' two definitions resize differently


@dataclass(frozen=True)
class Pack:
    """A data set at one resolution; row i of each array belongs to row i of the index."""

    folder: Path
    index: pd.DataFrame
    images: np.ndarray  # (N, S, S, 3) uint8, RGB
    mask_bits: np.ndarray  # (N, S, S) uint8: EXACT | PUBLISHED
    digest: str  # a sha256: the same images, masks and index give the same

    def masks(self, members: np.ndarray | int | slice, bit: int = EXACT) -> np.ndarray:
        """The masks of some images, (..., S, S) bool: of the definition `exact`, or with PUBLISHED of `published`."""
        return (self.mask_bits[members] & bit) > 0


def open_pack(folder: Path, index: pd.DataFrame | None = None) -> Pack:
    """The pack in `<prepared>/<dataset>/<size>/`, memory-mapped, with the index beside that folder (`index`, if read).

    Raises:
        UserError: there is no whole pack, or the index, or files that it names, changed after it was made.
    """
    again = "; `snakemake --cores all data` makes it"
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if note.get("version") != PACK_VERSION:
            raise UserError(f"{folder}: a pack of an older version of omniad; remove the folder{again}")
        images, masks = (np.load(folder / name, mmap_mode="r") for name in (IMAGES, MASKS))
        digest, index_sha256, files = note["digest"], note["index_sha256"], note.get("files_sha256", "")
        shape = (note["images"], note["size"], note["size"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no pack here{again}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise UserError(f"{folder}: a damaged pack ({error}); remove the folder{again}") from None
    index_csv = folder.parent / "index.csv"
    index = read_index(index_csv) if index is None else index
    if index_sha256 != sha256_file(index_csv) or images.shape != (*shape, 3) or masks.shape != shape:
        raise UserError(f"{folder}: the pack does not belong to {index_csv}; remove the folder{again}")
    if files != recorded_files(index_csv):
        raise UserError(f"{folder}: files of the data set changed since the pack was made; remove the folder{again}")
    return Pack(folder, index, images, masks, digest)


def read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """array[rows], as a copy; of a memory-mapped array it is read from the file instead of through the mapping.

    A mapping's pages count as the process's own memory, in which a data set of many gigabytes would gather over an
    epoch: a reason for Slurm to end the job. What is only read is dropped when memory gets short.
    """
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):  # a part of one has another offset
        return array[rows]
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    size = math.prod(array.shape[1:]) * array.itemsize
    with Path(str(array.filename)).open("rb", buffering=0) as file:
        for row, target in zip(rows.tolist(), found, strict=True):
            file.seek(array.offset + row * size)
            rest = memoryview(target).cast("B")
            while rest:
                rest = rest[_read_into(file, rest) :]
    return found


def _read_into(file: FileIO, target: memoryview) -> int:
    count = file.readinto(target)
    if not count:
        raise OSError(f"{file.name} ends too early")
    return count


def normalise(images: np.ndarray) -> torch.Tensor:
    """uint8 RGB images (B, S, S, 3) as float32 (B, 3, S, S) with ImageNet's mean and standard deviation."""
    import torch  # takes seconds, which making an index or a pack should not wait for

    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255  # a copy: a memmap can't be shared
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std
