"""RLR: features are reconstructed from learned reference tokens, so that anomalies can't be copied.

Source: He et al., "Learning Unified Reference Representation for Unsupervised Multi-class Anomaly Detection", 2024;
hlr7999/RLR.

Different here: the last epoch is the result, where the authors took the best one on the test set, for each metric its
own. Images are resized with PIL's bilinear filter and masks as for all methods (Lanczos and nearest in the authors'
code), because the runs share their packs. The last incomplete batch of an epoch is dropped: on MVTec-AD one image of
3,629. One Adam step in the whole training is more than the authors' (see `AdamWithIdleStep`). At image sizes other
than 256 the reference is resized.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.anomaly_map import smooth
from omniad.models.any_encoder import make_encoder
from omniad.models.baselines.attention import Attention, fit_grid, neighbourhood
from omniad.models.method import Method
from omniad.models.neck import jitter

HEADS, LAYERS = 8, 4
# The encoder's last two levels: tokens along a side at 256 pixels, width, side of the neighbourhood.
LEVELS = ((32, 256, 7), (16, 512, 5))
SIGMA = 4.0 / 256  # of the Gaussian before an image's score is taken, in the map's side


class RLR(Method):
    """Frozen encoder; for each of two levels a transformer that looks up every token in a learned reference."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = self.encoder.channels[-len(LEVELS) :]
        self.levels = nn.ModuleList(
            ReferenceTransformer(count, *level) for count, level in zip(channels, LEVELS, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, reconstructions; at 1/8 and 1/16."""
        features = self.encode(images)
        return features, self.reconstruct(features)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/8 and 1/16, averaged over 3x3 positions."""
        return [F.avg_pool2d(x, 3, stride=1, padding=1) for x in self.encoder(images)[-len(LEVELS) :]]

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """What `encode` gives -> its reconstructions; jittered in training."""
        scale = self.settings.jitter if self.training else 0.0
        inputs = [jitter(x, scale) if scale else x for x in features]
        return [level(x) for level, x in zip(self.levels, inputs, strict=True)]

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Mean squared error plus mean cosine distance of the tokens, summed over both levels."""
        total = features[0].new_zeros(())
        for x, y in zip(features, self.reconstruct(features), strict=True):
            total = total + F.mse_loss(y, x) + (1 - F.cosine_similarity(x, y, dim=1)).mean()
        return total

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Mean squared error plus cosine distance at every token, resized bilinearly, mean of both levels."""
        maps = []
        for x, y in zip(features, self.reconstruct(features), strict=True):
            distance = ((x - y) ** 2).mean(dim=1) + 1 - F.cosine_similarity(x, y, dim=1)  # (B, h, w)
            maps.append(
                F.interpolate(distance[:, None].float(), size=(size, size), mode="bilinear", align_corners=True)
            )
        return torch.cat(maps, dim=1).mean(dim=1)

    def image_scores(self, maps: Tensor) -> Tensor:
        """The maximum after a Gaussian of 4 pixels at 256; pixel metrics are taken before it."""
        return smooth(maps, SIGMA * maps.shape[-1]).amax(dim=(1, 2))

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """Adam as the authors' training runs it."""
        rate, decay = training.learning_rate, training.weight_decay
        return [AdamWithIdleStep(self.levels.parameters(), rate, weight_decay=decay, fused=True)]


class AdamWithIdleStep(torch.optim.Adam):
    """Adam whose every step is followed by one with gradients of zero.

    The authors' optimizer holds both levels and steps after each level's loss. Their PyTorch (1.12) clears gradients to
    zero where today's removes them, so the level that had no loss moves, too, by what its moments still hold: each
    level makes two steps an iteration, 1.4 times the way of one. The levels share nothing, so the sum of both losses
    followed by these two steps does the same; only in the last iteration the second level's idle step is one too many.
    """

    def step(self, closure: Any = None) -> Any:
        """The step, then the idle one; gradients are zero afterwards."""
        loss = super().step(closure)
        self.zero_grad(set_to_none=False)
        super().step()
        return loss


class ReferenceTransformer(nn.Module):
    """(B, C, h, w) -> (B, C, h, w), of values that a learned reference provides."""

    def __init__(self, channels: int, grid: int, width: int, window: int):
        super().__init__()
        self.width, self.window = width, window
        self.reference = nn.Parameter(torch.randn(1, channels, grid, grid))
        self.embed, self.embed_reference = nn.Linear(channels, width), nn.Linear(channels, width)
        for embedding in (self.embed, self.embed_reference):
            nn.init.kaiming_normal_(embedding.weight)  # fan-in
        self.layers = nn.ModuleList(ReferenceLayer(width) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(width)
        self.restore = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        positions = sine_positions(size, self.width, x.device)
        near = neighbourhood(size, self.window, x.device)
        tokens = self.embed(x.flatten(2).transpose(1, 2)) + positions  # (B, N, D)
        reference = self.embed_reference(fit_grid(self.reference, size)) + positions  # (1, N, D)
        for layer in self.layers:
            tokens = layer(tokens, reference.expand_as(tokens), near)
        return self.restore(self.norm(tokens)).transpose(1, 2).unflatten(2, size)


class ReferenceLayer(nn.Module):
    """x = LN(2 MCA + NSA), without a residual around either attention; then a feed-forward network with one."""

    def __init__(self, width: int):
        super().__init__()
        self.cross, self.self = Attention(width, HEADS), Attention(width, HEADS)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, reference: Tensor, near: Tensor) -> Tensor:
        """Tokens and reference, both (B, N, D) -> (B, N, D).

        MCA takes values from the reference around a token; NSA takes them from the tokens outside that neighbourhood,
        by their likeness with the reference.
        """
        x = self.norm1(2 * self.cross(x, reference, reference, near) + self.self(x, reference, x, ~near))
        return self.norm2(x + self.feed_forward(x))


def sine_positions(size: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Sines and cosines of column (first half of the channels) and row (second half): (1, h w, width)."""
    frequencies = 10000 ** (-torch.arange(0, width // 2, 2, device=device) / (width // 2))  # (width / 4,)
    encoded = []
    for side in size:
        angles = torch.arange(side, device=device)[:, None] * frequencies  # (side, width / 4)
        encoded.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1))  # (side, width / 2)
    rows = encoded[0][:, None].expand(-1, size[1], -1)
    columns = encoded[1][None].expand(size[0], -1, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)[None]
