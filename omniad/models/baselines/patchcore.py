"""PatchCore: how far an image's patches are from a small memory of those of all good images. [1] in the paper.

Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.

In the multi-class setting: one memory for all classes, images of 256 pixels without a crop, an image's score is the
maximum of its smoothed map. As in the authors' code nothing is re-weighted (equation 7), and a distance is squared.

Deviation: the memory is chosen from a random sample of the patches, so that its cost does not grow with the data set.
The authors choose a tenth of all; how many are kept here is `model.memory`, chosen from `model.candidates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings
from omniad.models.any_encoder import make_encoder
from omniad.models.coreset import Memory, draw_patches, part_of, sample_size
from omniad.models.method import AllFeatures, LeavesOut, Prepared
from omniad.models.standardise import Standardise

PATCH = 3  # a patch feature takes in 3x3 positions
PROJECTED = 128  # values that k-center compares


class PatchCore(LeavesOut):
    """Frozen encoder, patch features from its maps at 1/8 and 1/16, and the memory."""

    caches_features = False  # they are wanted once

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        c2, c3 = self.encoder.channels[-2:]
        self.in_pairs = c3 == 2 * c2  # as in ResNets
        self.standardise = Standardise([c2, c3]) if settings.standardise else nn.Identity()
        self.memory = Memory(settings.memory, 2 * c2 if self.in_pairs else c2 + c3)  # 1024 for a WideResNet-50-2

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> squared distances (B, H/8, W/8)."""
        return self.distances(self.encode(images))

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/8 and 1/16."""
        return self.encoder(images)[-2:]

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterator[Prepared]:
        """Draw patches, and choose the memory from them, compared by a random projection."""
        if isinstance(self.standardise, Standardise) and not kept:
            yield from part_of(self.standardise.fit(features), 0.0, 0.4)
        device = self.memory.entries.device
        drawing = draw_patches(features, lambda maps: [self.patches(maps)], self.settings.candidates, device, kept)
        (sample,) = yield from part_of(drawing, 0.4, 0.8)
        generator = torch.Generator().manual_seed(sample.seed)
        width = sample.patches.shape[1]
        projection = torch.empty(width, PROJECTED).uniform_(-1, 1, generator=generator) / width**0.5  # as nn.Linear's
        yield from part_of(self.memory.choose(sample, sample.patches @ projection.to(device)), 0.8, 1.0)

    def products(self, images: int, image_size: int) -> list[tuple[int, int]]:
        """Of the projected sample with the memory."""
        size = sample_size(self.settings.candidates, images, (image_size // 8) ** 2)
        return [(size * self.settings.memory, PROJECTED)]

    def patches(self, features: list[Tensor]) -> Tensor:
        """Maps (B, c2, h, w), (B, c3, h/2, w/2) -> a feature a position of the finer, (B, h w, D).

        The authors flatten 3x3 neighbourhoods, average them down to 2 c2 values with overlapping windows, resize the
        coarser map's and average each two neighbours of both maps' values. That all is linear, and where c3 = 2 c2 it
        comes to this: of the finer map a mean in which a neighbourhood's centre counts twice, of the coarser one the
        plain mean, of each two channels. Other encoders' channels stay as they are.
        """
        fine, coarse = self.standardise(features)
        fine = 0.9 * _mean(fine) + 0.1 * fine
        coarse = _mean(coarse)
        if self.in_pairs:
            coarse = coarse.unflatten(1, (-1, 2)).mean(dim=2)
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1).flatten(2).transpose(1, 2)

    def distances(self, features: list[Tensor], own: Tensor | None = None) -> Tensor:
        """What `encode` gives -> squared distance of each patch to its nearest in the memory, (B, h, w)."""
        patches = self.patches(features)  # (B, h w, D)
        images = None if own is None else own.repeat_interleave(patches.shape[1])
        return self.memory(patches.flatten(0, 1), images).square().view(-1, *features[0].shape[2:])

    def anomaly_maps(self, features: list[Tensor], size: int, own: Tensor | None = None) -> Tensor:
        """The squared distances, resized bilinearly: (B, size, size)."""
        distances = self.distances(features, own)[:, None]
        return F.interpolate(distances, size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def _mean(maps: Tensor) -> Tensor:
    """Of each position's neighbourhood, with zeros beyond the border."""
    return F.avg_pool2d(maps, PATCH, stride=1, padding=PATCH // 2)
