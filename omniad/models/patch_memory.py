"""Patch memory: an image is anomalous where its patches are far from all kept patches of good images.

PatchCore's idea (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022), adapted to small
encoders and a CPU. What differs: each scale has its own memory, so that fine and coarse features need not have been
seen together, and the coarse scale has only a quarter of the patches to look up; features are standardised; distances
are measured in units of the usual distance at their scale; an image's score is how far its map exceeds what good
images' maps show at the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.anomaly_map import smooth
from omniad.models.any_encoder import make_encoder
from omniad.models.coreset import Memory, Sample, draw_patches, part_of, sample_size
from omniad.models.method import AllFeatures, LeavesOut, Prepared
from omniad.models.standardise import Standardise

SCALES = 2  # the encoder's maps at 1/8 and 1/16 of the image's side
PATCH = 3  # a patch is the mean over 3x3 positions
GRID = 32  # places a side at which it is known what good images' maps show
BLUR = 1.0  # standard deviation of the Gaussian over these, in places


class PatchMemory(LeavesOut):
    """Frozen encoder, and for each of its two coarsest maps a memory of patches of good images."""

    unit: Tensor
    usual: Tensor

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = self.encoder.channels[-SCALES:]
        self.standardise = Standardise(channels)
        self.memories = nn.ModuleList(Memory(settings.memory, width) for width in channels)
        self.register_buffer("unit", torch.ones(SCALES))  # a good patch's mean distance
        self.register_buffer("usual", torch.zeros(GRID, GRID))  # good images' mean map

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, H) -> anomaly maps (B, H, H)."""
        return self.anomaly_maps(self.encode(images), images.shape[-1])

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/8 and 1/16."""
        return self.encoder(images)[-SCALES:]

    def patches(self, features: list[Tensor]) -> list[Tensor]:
        """What `encode` gives -> each scale's patches, (B, h w, D).

        Positions beyond the border count as 0, the training images' mean: an average over fewer of them would vary
        more, and good images would look anomalous along their borders.
        """
        means = [F.avg_pool2d(x, PATCH, stride=1, padding=PATCH // 2) for x in self.standardise(features)]
        return [x.flatten(2).transpose(1, 2) for x in means]

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterator[Prepared]:
        """Choose the memories from random patches of all images, then measure which distances are usual."""
        if not kept:
            yield from part_of(self.standardise.fit(features), 0.0, 0.4)
        drawing = draw_patches(features, self.patches, self.settings.candidates, self.unit.device, kept)
        samples = yield from part_of(drawing, 0.4, 0.6)
        usual = []
        for scale, sample in enumerate(samples):
            memory = cast(Memory, self.memories[scale])
            yield from part_of(memory.choose(sample), 0.6 + 0.2 * scale, 0.7 + 0.2 * scale)
            distances = memory.to_other_images(sample)
            self.unit[scale] = distances.mean() if distances.any() else 1.0
            usual.append(mean_map(distances / self.unit[scale], sample))
        self.usual.copy_(torch.stack(usual).mean(dim=0))

    def products(self, images: int, image_size: int) -> list[tuple[int, int]]:
        """Of each scale's sample with its memory: to choose it and to measure distances take four of them."""
        positions = [(image_size // stride) ** 2 for stride in (8, 16)]
        samples = [sample_size(self.settings.candidates, images, count) for count in positions]
        widths = self.encoder.channels[-SCALES:]
        return [(4 * size * self.settings.memory, width) for size, width in zip(samples, widths, strict=True)]

    def anomaly_maps(self, features: list[Tensor], size: int, own: Tensor | None = None) -> Tensor:
        """The mean over the scales of the distance to the nearest kept patch, in units, resized bilinearly."""
        maps = []
        for memory, unit, x, level in zip(self.memories, self.unit, self.patches(features), features, strict=True):
            images = None if own is None else own.repeat_interleave(x.shape[1])
            distances = memory(x.flatten(0, 1), images).view(-1, 1, *level.shape[2:]) / unit  # (B, 1, h, w)
            maps.append(F.interpolate(distances, size=(size, size), mode="bilinear", align_corners=False))
        return torch.cat(maps, dim=1).mean(dim=1)

    def image_scores(self, maps: Tensor) -> Tensor:
        """The most that a smoothed map (B, S, S) shows beyond what good images show at the same place."""
        return (maps - self.expected_map(maps.shape[-1])).amax(dim=(1, 2))

    def expected_map(self, size: int) -> Tensor:
        """Good images' mean map, (size, size)."""
        return F.interpolate(self.usual[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def mean_map(distances: Tensor, sample: Sample) -> Tensor:
    """Distances of a sample's patches (N,) -> their mean at each of GRID x GRID places of the image, smoothed."""
    side = math.isqrt(sample.positions)
    sums, counts = torch.zeros(2, side * side, device=distances.device)
    sums.index_add_(0, sample.places, distances)
    counts.index_add_(0, sample.places, torch.ones_like(distances))
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), distances.mean()).view(1, 1, side, side)
    resized = F.interpolate(mean, size=(GRID, GRID), mode="bilinear", align_corners=False)[0]
    return smooth(resized, BLUR)[0]
