"""PaDiM: a Gaussian of good features at every position; an image's distance from it. [10] in the paper.

Source: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
ICPR 2021 workshops.

In the multi-class setting: one Gaussian a position for all classes, images of 256 pixels without a crop. Sums instead
of all features are kept while it is fitted, so that its memory does not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from omniad.config import ModelSettings
from omniad.models.any_encoder import make_encoder
from omniad.models.method import AllFeatures, Prepared, TrainingFree

GRID = 64  # positions an image side: 1/4 of 256 pixels; images of other sizes are resized to it as maps
CHANNELS = {"resnet18": 100, "wide_resnet50_2": 550}  # that are drawn of all maps', at full size
REGULARISATION = 0.01  # added to each variance


class PaDiM(TrainingFree):
    """Frozen encoder, randomly drawn channels of its three maps, a mean and an inverse covariance a position."""

    caches_features = False  # they are wanted once

    chosen: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        total = sum(self.encoder.channels[-3:])
        width = min(total, CHANNELS.get(settings.encoder, 100) * settings.encoder_width // 64)
        self.register_buffer("chosen", torch.randperm(total)[:width].sort().values)
        self.register_buffer("mean", torch.zeros(GRID**2, width))
        self.register_buffer("whitening", torch.eye(width).repeat(GRID**2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> distances (B, GRID, GRID)."""
        return self.distances(self.encode(images))

    def encode(self, images: Tensor) -> list[Tensor]:
        """The chosen channels of the encoder's maps at 1/4, 1/8 and 1/16, on one grid: [(B, d, GRID, GRID)]."""
        maps = [F.interpolate(x, size=(GRID, GRID), mode="nearest") for x in self.encoder(images)[-3:]]
        return [torch.cat(maps, dim=1)[:, self.chosen]]

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterator[Prepared]:
        """Sums over all images, in double precision, then each position's Gaussian."""
        width = len(self.chosen)
        device, double = self.mean.device, torch.double
        done = int(kept["images"]) if kept else 0
        total = kept["sum"].to(device) if kept else torch.zeros(GRID**2, width, dtype=double, device=device)
        products = (
            kept["products"].to(device) if kept else torch.zeros(*total.shape, width, dtype=double, device=device)
        )
        for (batch,) in features.after(done):
            x = batch.flatten(2).permute(2, 0, 1).double()  # (P, B, d)
            total += x.sum(dim=1)
            products.baddbmm_(x.transpose(1, 2), x)
            done += len(batch)
            share = 0.9 * done / features.images
            yield Prepared(share, {"images": torch.tensor(done), "sum": total, "products": products})
        mean = total / done
        self.mean.copy_(mean)
        for rows in torch.arange(GRID**2, device=device).split(GRID):
            spread = products[rows] - done * mean[rows, :, None] * mean[rows, None, :]
            covariance = spread / max(done - 1, 1) + REGULARISATION * torch.eye(width, dtype=double, device=device)
            self.whitening[rows] = torch.linalg.inv(torch.linalg.cholesky(covariance)).to(self.whitening.dtype)
            yield Prepared(0.9 + 0.1 * (int(rows[-1]) + 1) / GRID**2)

    def products(self, images: int, image_size: int) -> list[tuple[int, int]]:
        """Of each two channels over the images, twice for double precision."""
        return [(2 * GRID**2 * len(self.chosen) ** 2, images)]

    def distances(self, features: list[Tensor]) -> Tensor:
        """What `encode` gives -> Mahalanobis distances (B, GRID, GRID)."""
        x = features[0].flatten(2).permute(2, 0, 1) - self.mean[:, None]  # (P, B, d)
        # With S = L L^T, x^T S^-1 x is the squared norm of L^-1 x.
        return (x @ self.whitening.mT).norm(dim=2).T.unflatten(1, (GRID, GRID))

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """The distances, resized bilinearly: (B, size, size)."""
        distances = self.distances(features)[:, None]
        return F.interpolate(distances, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
