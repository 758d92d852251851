"""Standardised features: each channel less its mean and by its deviation, over the training images.

An EfficientNet's maps are linear outputs whose scales differ much from channel to channel; without this, the loss and
every distance would see only the largest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from omniad.models.method import AllFeatures, Prepared


class Standardise(nn.Module):
    """Maps (B, C_k, h_k, w_k) -> the same shapes; mean 0 and deviation 1 over all positions of all training images."""

    def __init__(self, channels: list[int]):
        """`channels`: of the maps, in their order. Until `fit`, maps stay as they are."""
        super().__init__()
        self.levels = len(channels)
        for level, count in enumerate(channels):
            self.register_buffer(f"mean{level}", torch.zeros(count, 1, 1))
            self.register_buffer(f"deviation{level}", torch.ones(count, 1, 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [(x - self.get_buffer(f"mean{k}")) / self.get_buffer(f"deviation{k}") for k, x in enumerate(maps)]

    def fit(self, features: AllFeatures) -> Iterator[Prepared]:
        """Means and deviations of what `encode` gives; for a method's `prepare`. A constant channel keeps its scale."""
        sums = [torch.zeros(3, x.numel(), 1, dtype=torch.double, device=x.device) for x in self._means()]
        images = 0
        for maps in features:
            for total, x in zip(sums, maps, strict=True):
                values = x.double().transpose(0, 1).flatten(1)  # (C, B h w)
                total += torch.stack([torch.ones_like(values), values, values**2]).sum(dim=2, keepdim=True)
            images += len(maps[0])
            yield Prepared(images / features.images)
        for level, (count, total, squares) in enumerate(sums):  # (C, 1) each
            mean = total / count
            deviation = (squares / count - mean**2).clamp(min=0).sqrt()
            deviation = torch.where(deviation > 0, deviation, 1.0)
            self.get_buffer(f"mean{level}").copy_(mean[..., None])
            self.get_buffer(f"deviation{level}").copy_(deviation[..., None])

    def _means(self) -> list[Tensor]:
        return [self.get_buffer(f"mean{level}") for level in range(self.levels)]
