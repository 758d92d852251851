"""Batches of the frozen encoder's features of the normal training images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from omniad.data.packs import Pack, normalise, read_rows
from omniad.errors import UserError
from omniad.host_memory import available_memory
from omniad.models import Method
from omniad.parallel import in_order, usable_cores
from omniad.training.cache import cached_features
from omniad.training.memory import SHARE

GPU_SHARE = 0.4  # of the GPU's free memory that features may take where it is not known what training takes
HOST_SHARE = 0.5  # of the available main memory in which files that are read again and again may stay
READERS = 4  # threads that read, and draw, batches ahead

Draw = Callable[[Tensor, torch.Generator], list[Tensor]]


class TrainingFeatures:
    """Encoder features of the normal training images of a pack, batch by batch, read some batches ahead.

    Features that are constants of their image are rounded to half precision, whether they are kept (see cache.py) or
    recomputed, so that room on the disk does not change a result.

    Args:
        model: its encoder computes the features, on the model's device.
        cache_gib: largest size of the cache, GiB; above it features are recomputed for every batch.
        draw: what is drawn for a batch's images, where features are not cached (`Method.draw`).
        constant_from: epoch from which on features are constants (see `Method.features_settle_at`).
        wanted: bytes of a GPU's memory that training takes beside the weights (see memory.py), if that is known.

    Raises:
        UserError: the pack has fewer training images than a batch.
    """

    def __init__(
        self,
        model: Method,
        pack: Pack,
        batch_size: int,
        cache_gib: float,
        device: torch.device,
        draw: Draw = lambda images, generator: [],
        constant_from: int = 0,
        wanted: int | None = None,
    ) -> None:
        self.wanted = wanted
        self.model, self.pack, self.batch_size, self.device, self.draw = model, pack, batch_size, device, draw
        self.cache_gib, self.constant_from = cache_gib, constant_from
        self.rows = np.flatnonzero(pack.index["split"] == "train")
        if len(self.rows) < batch_size and not model.training_free:
            raise UserError(
                f"{len(self.rows)} training images are fewer than one batch of {batch_size}; lower training.batch_size"
            )
        self._constant = False  # in the epoch that is open
        self._cache: list[np.ndarray] | None = None
        self._on_gpu: list[Tensor] | None = None
        if not constant_from:
            self._settle()

    def _settle(self) -> None:
        """Keep the features from now on, if they are constants and there is room."""
        self._constant = self.model.caches_features
        if self._constant and self.cache_gib:
            rooms = (HOST_SHARE * available_memory(), self._room_on_gpu())
            self._cache = cached_features(
                *(self.model, self.pack, self._encode_half, len(self.rows), self.batch_size, self.cache_gib),
                memory=max(rooms),
            )
        self._on_gpu = self._move_to_gpu()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch; the last incomplete one is dropped."""
        return len(self.rows) // self.batch_size

    def epoch(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[list[Tensor]]:
        """Yield the feature batches of one epoch, from a step on; their order depends on seed and epoch alone."""
        if epoch >= self.constant_from and not self._constant:
            self._settle()
        order = self._order(seed, epoch)
        batches = [order[step * self.batch_size :][: self.batch_size] for step in range(self.steps_per_epoch)]
        generators = (step_generator(seed, epoch, step) for step in range(first_step, self.steps_per_epoch))
        return self.batches(batches[first_step:], generators)

    def batches(
        self, batches: Sequence[np.ndarray], generators: Iterable[torch.Generator | None] | None = None
    ) -> Iterator[list[Tensor]]:
        """Yield the features of given positions among the training images, a batch each.

        With a generator for each batch, what `draw` draws from it follows in the batch.
        """
        generators = [None] * len(batches) if generators is None else generators
        if self._on_gpu is not None:
            # Copied once, not once a step, which would wait for the step before it.
            positions = torch.from_numpy(np.concatenate(batches or [np.empty(0, np.int64)])).to(self.device)
            for members in positions.split([len(batch) for batch in batches]):
                yield [level[members].float() for level in self._on_gpu]
            return
        threads = min(READERS, usable_cores())
        with ThreadPoolExecutor(threads) as readers:
            for tensors in in_order(readers, self._read, zip(batches, generators, strict=True), ahead=threads + 1):
                yield self._finish(tensors)

    def all(self) -> WholePass:
        """Every training image once, for what a method computes before its first step."""
        return WholePass(self)

    def images(self, seed: int, epoch: int, step: int) -> list[str]:
        """The files of one batch, as the index names them."""
        members = self._order(seed, epoch)[step * self.batch_size :][: self.batch_size]
        return self.pack.index["image"].iloc[self.rows[members]].tolist()

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self.rows))

    def _read(self, task: tuple[np.ndarray, torch.Generator | None]) -> list[Tensor]:
        """In another thread: cached features in half precision, else the normalised images and what is drawn."""
        members, generator = task
        if self._cache is None:
            images = normalise(read_rows(self.pack.images, self.rows[members]))
            tensors = [images, *(self.draw(images, generator) if generator else [])]
        else:
            tensors = [torch.from_numpy(read_rows(level, members)) for level in self._cache]
        return [tensor.pin_memory() for tensor in tensors] if self.device.type == "cuda" else tensors

    def _finish(self, tensors: list[Tensor]) -> list[Tensor]:
        """What was read, as features in single precision on the device."""
        tensors = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        if self._cache is not None:
            return [level.float() for level in tensors]
        images, *drawn = tensors
        features = self.model.encode(images)
        return [*(map(_rounded, features) if self._constant else features), *drawn]

    def _encode_half(self, members: np.ndarray) -> list[Tensor]:
        images = normalise(read_rows(self.pack.images, self.rows[members])).to(self.device)
        return [level.half() for level in self.model.encode(images)]

    def _room_on_gpu(self) -> float:
        """Bytes that features may take there: what training leaves."""
        if self.device.type != "cuda":
            return 0.0
        free = torch.cuda.mem_get_info(self.device)[0]
        return GPU_SHARE * free if self.wanted is None else SHARE * free - self.wanted

    def _move_to_gpu(self) -> list[Tensor] | None:
        """All cached features on the GPU, if there is one and they fit."""
        if self._cache is None or self.device.type != "cuda":
            return None
        if sum(level.nbytes for level in self._cache) > self._room_on_gpu():
            return None
        on_gpu = [torch.empty(level.shape, dtype=torch.half, device=self.device) for level in self._cache]
        for target, level in zip(on_gpu, self._cache, strict=True):
            for start in range(0, len(level), 1024):
                members = np.arange(start, min(start + 1024, len(level)))
                target[start : start + 1024] = torch.from_numpy(read_rows(level, members))
        return on_gpu


class WholePass:
    """The features of all training images in the index's order, batch by batch; each `iter` starts again."""

    def __init__(self, features: TrainingFeatures):
        self.images = len(features.rows)
        files = features.pack.index["image"].iloc[features.rows]
        self.originals = pd.factorize(files)[0].tolist()
        self._features = features

    def __iter__(self) -> Iterator[list[Tensor]]:
        return self.after(0)

    def after(self, images: int) -> Iterator[list[Tensor]]:
        """The same without the first `images` images."""
        starts, size = range(images, self.images, self._features.batch_size), self._features.batch_size
        return self._features.batches([np.arange(start, min(start + size, self.images)) for start in starts])


def _rounded(level: Tensor) -> Tensor:
    """In half precision, as the cache keeps features; what is beyond its range, which no cache holds, stays."""
    half = level.half().float()
    return torch.where(half.isinf(), level, half)


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """A generator of one step's own: what it draws depends on nothing else."""
    [word] = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(word))
