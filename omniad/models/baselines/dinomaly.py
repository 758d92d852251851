"""Dinomaly: a transformer with linear attention learns to reconstruct the features of a frozen DINOv2.

Source: Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection", CVPR 2025.

As published the network sees the centre of an image alone, 7/8 of its side: 392 of 448 pixels. Deviations: images come
at `data.image_size`, the project's 256 pixels unless it says 448, and their centre is enlarged to 392. Every pixel
counts in the metrics here, also those of the border that was not seen: they take the score of the nearest pixel that
was. The phases of training (100 steps of warm-up, 1000 in which mining grows) are shares of it, of the 10,000 steps
that they were published for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.errors import UserError
from omniad.models.baselines.stable_adamw import StableAdamW
from omniad.models.dinov2 import EXTRA, PATCH, DinoV2, Mlp, merge_heads, split_heads, unused_parts
from omniad.models.method import Method

LAYERS = 8  # of the decoder, and of the encoder's outputs
PATCHES = 28  # along the side of what is seen, at most: 392 pixels
BORDER = 16  # a side's 16th is not seen, on each of the four
WARM_UP, LAST_RATE = 0.01, 0.1  # share of the steps in which the rate rises; its last value in the highest
MINED, MINING_GROWS = 0.9, 0.1  # share of the points that count as learned at last; of the steps until then
LEARNED_GRADIENT = 0.1  # what is left of the gradient at those points
BLUR_SIDE, BLUR_SIGMA, BLUR_AT = 5, 4.0, 256  # the map's smoothing: a kernel of 5x5 on 256x256 pixels
TOP_SHARE = 0.01  # of the pixels that make an image's score


class Dinomaly(Method):
    """Frozen DINOv2; noisy bottleneck (dropout); decoder with linear attention."""

    same_every_step = False  # the share of mined points grows
    encoder: DinoV2

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        if settings.jitter > 1:
            raise UserError(f"model.jitter: Dinomaly's is a dropout, from 0 to 1, not {settings.jitter:g}")
        self.encoder = DinoV2(settings.encoder, settings.encoder_width)
        channels = self.encoder.channels[0]
        self.bottleneck = Bottleneck(channels, settings.jitter)
        self.decoder = nn.ModuleList(DecoderBlock(channels) for _ in range(LAYERS))
        for module in (*self.bottleneck.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, S, S) -> two maps of features and their reconstructions, (B, D, h, h)."""
        features = self.encode(images)
        return [_patch_map(x) for x in features], self.reconstruct(features)

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[Tensor]:
        """The means of the encoder's blocks 2 to 5 and 6 to 9, all tokens: two of (B, 5 + h h, D)."""
        outputs = self.encoder.tokens(seen(images))
        half = LAYERS // 2
        return [torch.stack(group).mean(dim=0) for group in (outputs[:half], outputs[half:])]

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """What `encode` gives -> maps (B, D, h, h) that should be like its patches'.

        The decoder mirrors the encoder: its last four blocks give back the encoder's earlier group, its first four the
        later one.
        """
        x = self.bottleneck(torch.stack(features).mean(dim=0))  # (B, N, D)
        outputs = []
        for block in self.decoder:
            x = block(x)
            outputs.append(x)
        half = LAYERS // 2
        return [_patch_map(torch.stack(group).mean(dim=0)) for group in (outputs[half:], outputs[:half])]

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """1 - cos of each image's flattened map, mean over images and groups; points that are learned count less."""
        share = MINED * min(1.0, progress / MINING_GROWS)
        losses = []
        for target, output in zip(map(_patch_map, features), self.reconstruct(features), strict=True):
            mined = scale_learned_gradients(target, output, share)
            losses.append((1 - F.cosine_similarity(target.flatten(1), mined.flatten(1))).mean())
        return torch.stack(losses).mean()

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Cosine distances of both groups, smoothed, over the whole image: (B, size, size)."""
        total = []
        for target, output in zip(map(_patch_map, features), self.reconstruct(features), strict=True):
            distance = 1 - F.cosine_similarity(target.float(), output.float(), dim=1)[:, None]  # (B, 1, h, h)
            side = PATCH * distance.shape[-1]
            total.append(F.interpolate(distance, size=(side, side), mode="bilinear", align_corners=True))
        x = F.interpolate(torch.stack(total).mean(dim=0), size=(BLUR_AT, BLUR_AT), mode="bilinear", align_corners=False)
        x = blur(x)
        border = size // BORDER
        inner = size - 2 * border
        x = F.interpolate(x, size=(inner, inner), mode="bilinear", align_corners=False)
        return F.pad(x, (border,) * 4, mode="replicate")[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """The mean of the highest 1 % of the pixels that were seen."""
        border = maps.shape[1] // BORDER
        pixels = maps[:, border:-border, border:-border].flatten(1)
        return pixels.topk(max(1, int(TOP_SHARE * pixels.shape[1])), dim=1).values.mean(dim=1)

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """StableAdamW on bottleneck and decoder."""
        trainable = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return [StableAdamW(trainable, training.learning_rate, training.weight_decay)]

    def rate_factor(self, progress: float) -> float:
        """A linear rise from 0, then half a cosine."""
        if progress < WARM_UP:
            return progress / WARM_UP
        fallen = (progress - WARM_UP) / (1 - WARM_UP)
        return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * fallen)) / 2

    def never_run(self) -> Sequence[nn.Module]:
        """The encoder's last two blocks and what else its file holds."""
        return unused_parts(self.settings.encoder_width)


def seen(images: Tensor) -> Tensor:
    """The centre of images (B, 3, S, S), 7/8 of the side, at whole patches: (B, 3, 392, 392) of 256 pixels and more."""
    size = images.shape[2]
    border, patches = size // BORDER, min(PATCHES, size * 7 // 64)
    centre = images[:, :, border : size - border, border : size - border]
    side = PATCH * patches
    return F.interpolate(centre, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def _patch_map(tokens: Tensor) -> Tensor:
    """(B, 5 + h h, D) -> the patches alone, (B, D, h, h)."""
    side = math.isqrt(tokens.shape[1] - EXTRA)
    return tokens[:, EXTRA:].transpose(1, 2).unflatten(2, (side, side))


def scale_learned_gradients(target: Tensor, output: Tensor, share: float) -> Tensor:
    """`output` (B, D, h, w) itself, with a tenth of the gradient where it is among the `share` nearest to `target`."""
    with torch.no_grad():
        distance = 1 - F.cosine_similarity(target, output, dim=1)[:, None]  # (B, 1, h, w)
        kept = max(1, int(distance.numel() * (1 - share)))
        threshold = distance.flatten().topk(kept).values[-1]
        factor = torch.where(distance < threshold, LEARNED_GRADIENT, 1.0)
    return output * factor + (output * (1 - factor)).detach()


def blur(maps: Tensor) -> Tensor:
    """Maps (B, 1, H, W) under a 5x5 Gaussian of sigma 4, which is nearly a box; zeros lie outside."""
    x = torch.arange(BLUR_SIDE, device=maps.device) - BLUR_SIDE // 2
    line = torch.exp(-(x**2) / (2 * BLUR_SIGMA**2))
    kernel = torch.outer(line, line)
    return F.conv2d(maps, (kernel / kernel.sum())[None, None], padding=BLUR_SIDE // 2)


class Bottleneck(nn.Module):
    """An MLP without residual, with dropout before, inside and behind it: (B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.mlp, self.dropout = Mlp(channels), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.gelu(self.mlp.fc1(self.dropout(x))))
        return self.dropout(self.mlp.fc2(x))


class DecoderBlock(nn.Module):
    """Pre-norm transformer block with linear attention: (B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-8), nn.LayerNorm(channels, eps=1e-8)
        self.qkv, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(self.norm1(x)))
        x = x + self.output(merge_heads(linear_attention(q, k, v)))
        return x + self.mlp(self.norm2(x))


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with phi(q) phi(k) in place of exp(q k), phi = elu + 1, all (B, H, N, D_h); its cost is linear in N."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    weights = torch.matmul(q, k.sum(dim=2, keepdim=True).transpose(2, 3))  # (B, H, N, 1)
    return torch.matmul(q, torch.matmul(k.transpose(2, 3), v)) / weights
