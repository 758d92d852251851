"""RD4AD: a decoder learns to reconstruct a teacher's features from a bottleneck embedding of them.

Source: Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022.

Different here: the encoder's weights are torchvision's IMAGENET1K_V1 (the authors' choice; the multi-class reruns
behind Table I took others); learning rate step and gradient clip, both settings, are the reruns', not the authors'. The
map is divided by 9 (see `cosine_maps`), which no metric sees.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.anomaly_map import cosine_maps
from omniad.models.encoder import Encoder, initialise_convolutions, resnet_layer
from omniad.models.method import Method
from omniad.models.neck import conv_block

BETAS = (0.5, 0.999)  # Adam's
DEPTHS = (3, 4, 6)  # bottlenecks of the decoder's three stages, coarsest first
BASE_WIDTH = 128  # inside the decoder's bottlenecks, per 64 channels: that of the teacher, a WideResNet-50-2


class RD4AD(Method):
    """Frozen teacher, one-class bottleneck embedding, and a student decoder that mirrors the teacher."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = Encoder(settings.encoder, settings.encoder_width)
        c1, c2, c3 = self.encoder.channels
        self.embedding = Embedding(self.encoder.channels)
        widths = zip((2 * c3, c3, c2), (c3, c2, c1), DEPTHS, strict=True)
        self.decoder = nn.ModuleList(_decoder_stage(inputs, out, depth) for inputs, out, depth in widths)
        initialise_convolutions(self.embedding)
        initialise_convolutions(self.decoder)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, reconstructions; finest first."""
        features = self.encoder(images)
        return features, self.reconstruct(features)

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """Features, finest first -> reconstructions of the same shapes."""
        x = self.embedding(features)  # (B, 2 c3, H/32, W/32)
        outputs = []
        for stage in self.decoder:
            x = stage(x)
            outputs.append(x)
        return outputs[::-1]

    def encode(self, images: Tensor) -> list[Tensor]:
        """The teacher's maps at 1/4, 1/8, 1/16."""
        return self.encoder(images)

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Cosine distances between whole feature maps (see `flat_cosine_loss`)."""
        return flat_cosine_loss(features, self.reconstruct(features))

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Cosine distances per position at three scales, (B, size, size)."""
        return cosine_maps(features, self.reconstruct(features), size)

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """Adam with the authors' momenta."""
        trainable = [*self.embedding.parameters(), *self.decoder.parameters()]
        rate, decay = training.learning_rate, training.weight_decay
        return [torch.optim.Adam(trainable, rate, BETAS, weight_decay=decay, fused=True)]


def flat_cosine_loss(features: list[Tensor], reconstructions: list[Tensor]) -> Tensor:
    """1 - cos of each image's flattened map (one cosine an image, not one a position): batch mean, summed over scales.

    Args:
        features, reconstructions: per scale (B, C_k, H_k, W_k).
    """
    total = features[0].new_zeros(())
    for feature, reconstruction in zip(features, reconstructions, strict=True):
        total = total + (1 - F.cosine_similarity(feature.flatten(1), reconstruction.flatten(1))).mean()
    return total


class Embedding(nn.Module):
    """Multi-scale fusion and one-class embedding: three maps at the coarsest's size, then three bottlenecks."""

    def __init__(self, channels: list[int]):
        super().__init__()
        c1, c2, c3 = channels
        self.down1 = nn.Sequential(conv_block(c1, c2, kernel=3, stride=2), conv_block(c2, c3, kernel=3, stride=2))
        self.down2 = conv_block(c2, c3, kernel=3, stride=2)
        self.bottlenecks = resnet_layer(Bottleneck, 3, 3 * c3, c3 // 2, stride=2)

    def forward(self, features: list[Tensor]) -> Tensor:
        """[(B, c1, h, w), (B, c2, h/2, w/2), (B, c3, h/4, w/4)] -> (B, 2 c3, h/8, w/8)."""
        f1, f2, f3 = features
        return self.bottlenecks(torch.cat([self.down1(f1), self.down2(f2), f3], dim=1))


def _decoder_stage(inputs: int, out: int, depth: int) -> nn.Sequential:
    """(B, inputs, h, w) -> (B, out, 2h, 2w)."""
    rest = resnet_layer(Bottleneck, depth - 1, out, out // Bottleneck.expansion, base_width=BASE_WIDTH)
    return nn.Sequential(UpBottleneck(inputs, out), *rest)


class UpBottleneck(nn.Module):
    """A bottleneck that doubles the resolution: 2x2 transposed convolutions where a ResNet's has stride-2 ones."""

    def __init__(self, inputs: int, out: int):
        super().__init__()
        inner = out // Bottleneck.expansion * BASE_WIDTH // 64
        self.branch = nn.Sequential(
            *(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.shortcut = nn.Sequential(nn.ConvTranspose2d(inputs, out, 2, stride=2, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, out, 2h, 2w)."""
        return F.relu(self.branch(x) + self.shortcut(x))
