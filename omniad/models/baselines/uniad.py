"""UniAD: a transformer reconstructs a frozen EfficientNet's features, masked so that it can't copy them.

Source: You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022; zhiyuanyou/UniAD.

Table I prints the rerun of zhangzjn/ADer (its VisA row is that repository's, digit by digit), and where the rerun
differs from the authors' code, this follows the rerun: images of 256 pixels, so a 16x16 grid of tokens and a 9x9
neighbour mask (224, 14x14 and 7x7 in the original), timm's `tf_efficientnet_b4` weights, gradients clipped at norm 5
(0.1), no weight decay on biases and other 1-D parameters.

Different here: for image sizes other than 256 the learned position and query embeddings are resized bilinearly.
Real-IAD is trained for 100 epochs.
"""

from __future__ import annotations

import copy
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
POOL = 16  # an image's score is the largest mean of the map over a window of this side, pixels


class UniAD(Method):
    """Frozen encoder; encoder and decoder of a transformer on its features at stride 16."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = sum(self.encoder.channels)
        self.embed, self.restore = nn.Linear(channels, WIDTH), nn.Linear(WIDTH, channels)
        self.rows, self.columns = (nn.Parameter(torch.rand(GRID, WIDTH // 2)) for _ in range(2))
        self.encoder_layers, self.decoder_layers = _copies(EncoderLayer()), _copies(DecoderLayer())
        self.norm = nn.LayerNorm(WIDTH)  # of the decoder's output
        for part in (self.embed, self.restore, self.encoder_layers, self.decoder_layers):
            part.apply(_initialise)

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
        allowed = ~neighbourhood(size, neighbour_window(size), x.device)
        for layer in self.encoder_layers:
            tokens = layer(tokens, positions, allowed)
        memory = tokens
        for layer in self.decoder_layers:
            tokens = layer(tokens, memory, positions, size, allowed)
        return [self.restore(self.norm(tokens)).transpose(1, 2).unflatten(2, size)]

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

    def never_run(self) -> Sequence[nn.Module]:
        """An EfficientNet's last two stages: the published count has them."""
        if self.settings.encoder not in EFFICIENTNETS:
            return []
        configs = stage_configs(self.settings.encoder, self.settings.encoder_width)[LEVELS[-1] :]
        return [stage(config, nn.BatchNorm2d) for config in configs]


def neighbour_window(size: tuple[int, int]) -> int:
    """Side of the square around a token of which it sees nothing: 9 on a 16x16 grid (ADer), 7 on 14x14 (authors)."""
    return 2 * (min(size) // 4) + 1


def _copies(layer: nn.Module) -> nn.ModuleList:
    """Layers that start alike where `_initialise` draws nothing: in the projections of attention and in the queries."""
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(LAYERS))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


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
        self.queries = nn.Parameter(torch.randn(GRID * GRID, WIDTH))
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
