"""Omni-AD: frozen encoder, neck, decoder (Fig. 1), its loss (eq. 6) and its anomaly map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.errors import UserError
from omniad.models.anomaly_map import cosine_maps
from omniad.models.any_encoder import make_encoder
from omniad.models.decoder import Decoder, stage_widths
from omniad.models.method import AllFeatures, Method, Prepared
from omniad.models.neck import Neck, jitter
from omniad.models.omni_block import OmniBlock
from omniad.models.random_projection import RandomProjections
from omniad.models.standardise import Standardise


class OmniAD(Method):
    """Reconstructs the features of a frozen encoder; anomalies are where that fails.

    Args:
        settings: the model's; weights are drawn from torch's global generator.

    Raises:
        UserError: the heads do not divide the width of a stage.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = self.encoder.channels[-3:]
        widths = stage_widths(settings, channels)
        for width in reversed(widths):
            if width % settings.heads:
                raise UserError(f"model.heads: {settings.heads} heads do not divide the {width} channels of a stage")
        # Inner width 128 for basic ResNets and 2048 for bottleneck ones (see Neck).
        self.neck = Neck(channels, inner=2 * channels[2] // 4 * self.encoder.expansion, width=widths[0])
        self.projections = RandomProjections(self.generator)
        self.decoder = Decoder(widths, channels, settings, self.projections)
        self.standardise = Standardise(channels) if settings.standardise else nn.Identity()

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, standardised where that is set, and reconstructions.

        Both are [(B, c1, H/4, W/4), (B, c2, H/8, W/8), (B, c3, H/16, W/16)], finest first.
        """
        features = self.standardise(self.encode(images))
        return features, self.reconstruct(features)

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """Features (see `forward`) -> reconstructions of the same shapes; jittered in training.

        Raises:
            UserError: the maps' sides can't be halved three times, or leave a single position, which has no variance.
        """
        height, width = features[0].shape[2:]
        if height % 8 or width % 8 or height * width <= 64:
            raise UserError(
                f"images of {4 * height}x{4 * width} pixels do not fit the model: "
                "sides must be multiples of 32 and larger than 32"
            )
        fused = self.neck(features)  # (B, widths[0], H/32, W/32)
        if self.training and self.settings.jitter:
            fused = jitter(fused, self.settings.jitter)
        if self.draws:
            self.projections.draw(fused.device)
        return self.decoder(fused)

    def prepare_step(self, device: torch.device) -> None:
        """Make the random draws that a recorded step can't make."""
        if self.draws:
            self.projections.draw(device)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/4, 1/8 and 1/16."""
        return self.encoder(images)[-3:]

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterable[Prepared]:
        """Each channel's mean and deviation, where features are standardised."""
        return self.standardise.fit(features) if isinstance(self.standardise, Standardise) else ()

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Squared error between features and their reconstructions (eq. 6, see `reconstruction_loss`)."""
        features = self.standardise(features)
        return reconstruction_loss(features, self.reconstruct(features), training.loss)

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Cosine distances at three scales, (B, size, size)."""
        features = self.standardise(features)
        return cosine_maps(features, self.reconstruct(features), size)

    def blocks(self) -> Iterable[nn.Module]:
        """The decoder's Omni-blocks."""
        return (module for module in self.decoder.modules() if isinstance(module, OmniBlock))

    @property
    def draws(self) -> bool:
        """The `released` variant redraws its output projections in every call."""
        return self.settings.variant == "released" and self.settings.projection == "random"


def reconstruction_loss(features: list[Tensor], reconstructions: list[Tensor], kind: str = "mean") -> Tensor:
    """Squared error between features and reconstructions, summed over the scales.

    Args:
        features, reconstructions: per scale (B, C_k, H_k, W_k).
        kind: "mean" divides by C_k H_k W_k (the released code); "eq6" by H_k W_k alone, as equation 6 is printed.
            Both are means over the batch.
    """
    total = features[0].new_zeros(())
    for target, output in zip(features, reconstructions, strict=True):
        scale = target.shape[1] if kind == "eq6" else 1
        total = total + scale * nn.functional.mse_loss(output, target)
    return total
