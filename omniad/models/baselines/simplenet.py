"""SimpleNet: a discriminator learns to tell patch features from the same features with noise added.

Source: Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023.

Different here: images of 256 pixels, not cropped from 329 to 288, and batches of 32, as in the multi-class reruns. The
last epoch is the result, where the original took the best one on the test set; reruns with 300 epochs instead of 100
are far worse, so the number of epochs matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.any_encoder import make_encoder
from omniad.models.encoder import ARCHITECTURES, resnet_layer
from omniad.models.method import Method

PATCH = 3  # a patch feature is the mean over 3x3 positions
NOISE = 0.015  # its standard deviation
MARGIN = 0.5
PROJECTION_DECAY, DISCRIMINATOR_DECAY = 1e-2, 1e-5  # weight decay of AdamW and of Adam
DISCRIMINATOR_RATE = 2.0  # its learning rate in the projection's


class SimpleNet(Method):
    """Frozen encoder, patch features at 1/8 and 1/16, a linear projection and a discriminator."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        self.width = sum(self.encoder.channels[-2:])  # 1536 for a WideResNet-50-2
        self.projection = nn.Linear(self.width, self.width)
        self.discriminator = Discriminator(self.width)
        for part in (self.projection, self.discriminator):
            part.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> anomaly scores (B, H/8, W/8)."""
        return self.score(self.encode(images))

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/8 and 1/16."""
        return self.encoder(images)[-2:]

    def score(self, features: list[Tensor]) -> Tensor:
        """What `encode` gives -> minus the discriminator's output at every patch (B, h, w)."""
        size = features[0].shape[2:]
        return -self.discriminator(self.projection(patch_features(features, self.width))).view(-1, *size)

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Hinge loss of real and of noisy features (see `hinge_loss`); BatchNorm sees both at once."""
        real = self.projection(patch_features(features, self.width))  # (B h w, D)
        noisy = real + NOISE * torch.randn_like(real)
        outputs = self.discriminator(torch.cat([real, noisy]))
        return hinge_loss(*outputs.chunk(2))

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """The patches' scores, resized bilinearly: (B, size, size)."""
        scores = self.score(features)[:, None].float()
        return F.interpolate(scores, size=(size, size), mode="bilinear", align_corners=False)[:, 0]

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """AdamW for the projection, Adam at twice the rate for the discriminator."""
        rate = training.learning_rate
        projection = torch.optim.AdamW(self.projection.parameters(), rate, weight_decay=PROJECTION_DECAY, fused=True)
        faster, decay = DISCRIMINATOR_RATE * rate, DISCRIMINATOR_DECAY
        discriminator = torch.optim.Adam(self.discriminator.parameters(), faster, weight_decay=decay, fused=True)
        return [projection, discriminator]

    def never_run(self) -> Sequence[nn.Module]:
        """A ResNet's layer 4 and its classifier: the published count has them."""
        if self.settings.encoder not in ARCHITECTURES:
            return []
        block, _, base_width = ARCHITECTURES[self.settings.encoder]
        planes = 8 * self.settings.encoder_width
        layer4 = resnet_layer(block, 3, self.encoder.channels[2], planes, stride=2, base_width=base_width)
        return [layer4, nn.Linear(planes * block.expansion, 1000)]


class Discriminator(nn.Sequential):
    """(N, D) -> (N, 1): high for features of normal patches."""

    def __init__(self, width: int):
        hidden = 2 * width // 3  # 1024 of 1536
        super().__init__(
            *(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2)),
            nn.Linear(hidden, 1, bias=False),
        )


def hinge_loss(real: Tensor, noisy: Tensor) -> Tensor:
    """Outputs (N, 1) of real features should be above the margin, of noisy ones below minus the margin."""
    return F.relu(MARGIN - real).mean() + F.relu(MARGIN + noisy).mean()


def patch_features(features: list[Tensor], width: int) -> Tensor:
    """Two maps -> one feature a position of the finer: (B, c2, h, w), (B, c3, h/2, w/2) -> (B h w, width).

    Each position's PATCH x PATCH neighbourhood is flattened and averaged down to `width` values; the coarser map's are
    resized bilinearly to the finer's grid (after that averaging, which gives the same and costs less); then each two
    neighbours of the 2 `width` values are averaged.
    """
    size = features[0].shape[2:]
    levels = []
    for level in features:
        height, columns = level.shape[2:]
        patches = F.unfold(level, PATCH, padding=PATCH // 2)  # (B, 9 c, h w), zero outside
        pooled = F.adaptive_avg_pool1d(patches.transpose(1, 2), width).transpose(1, 2)  # (B, D, h w)
        pooled = pooled.unflatten(2, (height, columns))
        if (height, columns) != size:
            pooled = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        levels.append(pooled.flatten(2).transpose(1, 2).flatten(0, 1))  # (B h w, D)
    return F.adaptive_avg_pool1d(torch.cat(levels, dim=1), width)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
