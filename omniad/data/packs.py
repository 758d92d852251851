"""Packs: a data set's images and masks as uint8 arrays at one resolution, resized once for all runs, memory-mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from omniad.data.index import read_index
from omniad.errors import UserError
from omniad.files import sha256_file

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGES, MASKS, NOTE = "images.npy", "masks.npy", "pack.json"


@dataclass(frozen=True)
class Pack:
    """A data set at one resolution; row i of each array belongs to row i of the index."""

    folder: Path
    index: pd.DataFrame
    images: np.ndarray  # (N, S, S, 3) uint8, RGB
    masks: np.ndarray  # (N, S, S) uint8, 0 or 1
    digest: str  # a sha256: the same images, masks and index give the same


def open_pack(folder: Path) -> Pack:
    """The pack in `<prepared>/<dataset>/<size>/`, memory-mapped, with the index beside that folder.

    Raises:
        UserError: there is no whole pack, or the index changed after it was made.
    """
    again = "; `snakemake --cores all data` makes it"
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        images, masks = (np.load(folder / name, mmap_mode="r") for name in (IMAGES, MASKS))
        digest, index_sha256, shape = note["digest"], note["index_sha256"], (note["images"], note["size"], note["size"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no pack here{again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: a broken pack ({error}); remove the folder{again}") from None
    index_csv = folder.parent / "index.csv"
    index = read_index(index_csv)
    if index_sha256 != sha256_file(index_csv) or images.shape != (*shape, 3) or masks.shape != shape:
        raise UserError(f"{folder}: the pack does not belong to {index_csv}; remove the folder{again}")
    return Pack(folder, index, images, masks, digest)


def normalise(images: np.ndarray) -> torch.Tensor:
    """uint8 RGB images (B, S, S, 3) as float32 (B, 3, S, S) with ImageNet's mean and standard deviation."""
    import torch  # takes seconds, which making an index or a pack should not wait for

    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255  # a copy: a memmap can't be shared
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std
