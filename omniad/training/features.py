"""Batches of the frozen encoder's features.

Nothing is augmented and the encoder never changes, so an image's features are constants: when they fit in memory they
are computed once and reused in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from omniad.data.packs import Pack, normalise
from omniad.errors import UserError
from omniad.models import Method


class TrainingFeatures:
    """Encoder features of the normal training images of a pack, batch by batch.

    Args:
        model: its encoder computes the features, on the model's device.
        cache_gib: largest size of the cache in memory, GiB; above it features are computed anew for every batch.

    Raises:
        UserError: the pack has fewer training images than a batch.
    """

    def __init__(self, model: Method, pack: Pack, batch_size: int, cache_gib: float, device: torch.device) -> None:
        self.model, self.pack, self.batch_size, self.device = model, pack, batch_size, device
        self.rows = np.flatnonzero(pack.index["split"] == "train")
        if len(self.rows) < batch_size:
            raise UserError(
                f"{len(self.rows)} training images are fewer than one batch of {batch_size}; lower training.batch_size"
            )
        self._cache = self._fill_cache(cache_gib)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch; the last incomplete one is dropped."""
        return len(self.rows) // self.batch_size

    def epoch(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[list[torch.Tensor]]:
        """Yield the feature batches of one epoch, from a step on; their order depends on seed and epoch alone."""
        for step in range(first_step, self.steps_per_epoch):
            yield self._batch(self._members(seed, epoch, step))

    def images(self, seed: int, epoch: int, step: int) -> list[str]:
        """The files of one batch, as the index names them."""
        return self.pack.index["image"].iloc[self.rows[self._members(seed, epoch, step)]].tolist()

    def _members(self, seed: int, epoch: int, step: int) -> np.ndarray:
        order = np.random.default_rng([seed, epoch]).permutation(len(self.rows))
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def _batch(self, members: np.ndarray) -> list[torch.Tensor]:
        if self._cache is None:
            return self._encode(members)
        picked = torch.from_numpy(members)
        return [level[picked].to(self.device, non_blocking=True) for level in self._cache]

    def _encode(self, members: np.ndarray) -> list[torch.Tensor]:
        return self.model.encode(normalise(self.pack.images[self.rows[members]]).to(self.device))

    def _fill_cache(self, cache_gib: float) -> list[torch.Tensor] | None:
        first = self._encode(np.arange(1))
        bytes_per_image = sum(level.numel() * level.element_size() for level in first)
        if not self.model.caches_features or bytes_per_image * len(self.rows) > cache_gib * 2**30:
            return None
        cache = [torch.empty((len(self.rows), *level.shape[1:])) for level in first]
        for start in range(0, len(self.rows), self.batch_size):
            members = np.arange(start, min(start + self.batch_size, len(self.rows)))
            for level, encoded in zip(cache, self._encode(members), strict=True):
                level[start : start + len(members)] = encoded.cpu()
        return cache
