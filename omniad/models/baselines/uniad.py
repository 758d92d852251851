"""UniAD: a transformer reconstructs a frozen EfficientNet's features, masked so that it can't copy them.

Source: You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022.

Deviations: images of 256 pixels (a 16x16 grid of tokens) instead of 224 (14x14), as in the reruns behind Table I. The
encoder's weights are timm's `tf_efficientnet_b4` of those reruns, not the authors' file of the same network. For other
image sizes the learned position and query embeddings are resized bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.any_encoder import make_encoder
from omniad.models.baselines.attention import Attention, fit_grid, neighbourhood
from omniad.models.efficientnet import EFFICIENTNETS, LEVELS, stage, stage_configs
from omniad.models.method import Method
from omniad.models.neck import jitter

GRID = 16  # tokens along a side of an image of 256 pixels
WIDTH, HEADS, HIDDEN, LAYERS, DROPOUT = 256, 8, 1024, 4, 0.1
WINDOW = 7  # a token sees nothing of the 7x7 tokens around it
POOL = 16  # an image's score is the largest mean of the map over a window of this side, pixels


class UniAD(Method):
    """Frozen encoder; encoder and decoder of a transformer on its features at stride 16."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = sum(self.encoder.channels)
        self.embed, self.restore = nn.Linear(channels, WIDTH), nn.Linear(WIDTH, channels)
        self.rows, self.columns = (nn.Parameter(torch.rand(GRID, WIDTH // 2)) for _ in range(2))
        self.encoder_layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.decoder_layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        for layers in (self.encoder_layers, self.decoder_layers):
            for parameter in layers.parameters():
                if parameter.ndim == 2:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, reconstructions: one map each."""
        features = self.encode(images)
        return features, self.reconstruct(features)

    def encode(self, images: Tensor) -> list[Tensor]:
        """One map: all levels resized to stride 16 and concatenated, (B, C, H/16, W/16), C = 272 at full width."""
        levels = self.encoder(images)
        size = levels[-1].shape[2:]
        return [torch.cat([F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in levels], dim=1)]

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """What `encode` gives -> its reconstruction, of the same shape; jittered in training."""
        (x,) = features
        size = (x.shape[2], x.shape[3])
        if self.training and self.settings.jitter:
            x = jitter(x, self.settings.jitter)
        tokens = self.embed(x.flatten(2).transpose(1, 2))  # (B, N, D)
        positions = self._positions(size)
        allowed = ~neighbourhood(size, WINDOW, x.device)
        for layer in self.encoder_layers:
            tokens = layer(tokens, positions, allowed)
        memory = tokens
        for layer in self.decoder_layers:
            tokens = layer(tokens, memory, positions, size, allowed)
        return [self.restore(tokens).transpose(1, 2).unflatten(2, size)]

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """Learned embeddings of column and row, half of the channels each -> (1, h w, D)."""
        columns = self.columns.T[None, :, None].expand(1, -1, GRID, GRID)
        rows = self.rows.T[None, :, :, None].expand(1, -1, GRID, GRID)
        return fit_grid(torch.cat([columns, rows], dim=1), size)

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Mean squared error between features and reconstruction."""
        return F.mse_loss(self.reconstruct(features)[0], features[0])

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Euclidean distance over the channels at every token, resized bilinearly: (B, size, size)."""
        distance = (features[0] - self.reconstruct(features)[0]).norm(dim=1, keepdim=True)  # (B, 1, h, w)
        return F.interpolate(distance, size=(size, size), mode="bilinear", align_corners=True)[:, 0].float()

    def image_scores(self, maps: Tensor) -> Tensor:
        """The largest mean over a 16x16 window, stride 1."""
        return F.avg_pool2d(maps[:, None], POOL, stride=1).amax(dim=(1, 2, 3))

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """AdamW, with weight decay on all parameters."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [torch.optim.AdamW(trainable, training.learning_rate, weight_decay=training.weight_decay)]

    def never_run(self) -> Sequence[nn.Module]:
        """An EfficientNet's last two stages: the published count has them."""
        if self.settings.encoder not in EFFICIENTNETS:
            return []
        configs = stage_configs(self.settings.encoder, self.settings.encoder_width)[LEVELS[-1] :]
        return [stage(config, nn.BatchNorm2d) for config in configs]


class FeedForward(nn.Sequential):
    """(B, N, D) -> (B, N, D)."""

    def __init__(self):
        super().__init__(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, WIDTH))


class EncoderLayer(nn.Module):
    """Masked self-attention, then a feed-forward network; each with a residual and a LayerNorm after it."""

    def __init__(self):
        super().__init__()
        self.attention, self.feed_forward = Attention(WIDTH, HEADS, DROPOUT), FeedForward()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        placed = x + positions
        x = self.norm1(x + self.dropout(self.attention(placed, placed, x, allowed)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """The layer's own learned queries ask the memory, what they found asks the previous layer's output."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(nn.init.xavier_uniform_(torch.empty(GRID * GRID, WIDTH)))
        self.first, self.second = Attention(WIDTH, HEADS, DROPOUT), Attention(WIDTH, HEADS, DROPOUT)
        self.feed_forward = FeedForward()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, previous: Tensor, memory: Tensor, positions: Tensor, size: tuple[int, int], allowed: Tensor
    ) -> Tensor:
        """Previous output and encoder's output, both (B, N, D) -> (B, N, D); the first previous output is memory."""
        x = fit_grid(self.queries.T.unflatten(1, (GRID, GRID))[None], size).expand(memory.shape[0], -1, -1)
        x = self.norm1(x + self.dropout(self.first(x + positions, memory + positions, memory, allowed)))
        x = self.norm2(x + self.dropout(self.second(x + positions, previous + positions, previous, allowed)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))
