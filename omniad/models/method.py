"""What training and evaluation ask of a method, whichever it is: features, a loss, anomaly maps and image scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.encoder import FrozenEncoder


class Method(nn.Module, ABC):
    """A detector around a frozen encoder.

    Training calls `encode`, `loss` and `make_optimizers`; evaluation calls `encode`, `anomaly_maps` and
    `image_scores`. Weights are drawn from torch's global generator when it is built.
    """

    caches_features = True
    """Whether what `encode` gives depends on the image, the method and the encoder's weights alone.

    Training then rounds it to half precision and keeps it over the epochs, for all runs.
    """

    encoder: FrozenEncoder
    """Its weights come from a file (`load_weights`); all others are drawn."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.settings = settings
        self.generator = torch.Generator("cpu")  # of what is drawn in inference too; part of the training state
        self.seed_draws(0)

    def load_start(self, file: Path) -> None:
        """Fill what starts from published weights beside the encoder; called for methods in `START_WEIGHTS` alone."""
        raise NotImplementedError(f"{type(self).__name__} starts from nothing but its encoder's weights")

    def features_settle_at(self, training: TrainingSettings) -> float:
        """From which share of a training on features are constants; before, what `encode` uses is itself trained."""
        return 0.0

    def encoding_parts(self) -> Sequence[nn.Module]:
        """The networks that `encode` uses; their weights tell whether features can be kept."""
        return [self.encoder]

    @abstractmethod
    def forward(self, images: Tensor) -> object:
        """Normalised images (B, 3, H, W) through every network once; what `omniad complexity` counts."""

    @abstractmethod
    def encode(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> what the frozen encoder sees in them; without gradients."""

    @abstractmethod
    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float) -> Tensor:
        """The loss of one training step, a scalar, on a batch of what `encode` gave.

        `progress` is the share of all steps that are done, in [0, 1): for methods that train in phases.
        """

    @abstractmethod
    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Maps (B, size, size), float32, before any smoothing by `evaluation.sigma`; higher is more anomalous."""

    def image_scores(self, maps: Tensor) -> Tensor:
        """Smoothed maps (B, S, S) -> scores (B,); by default each map's maximum."""
        return maps.amax(dim=(1, 2))

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """AdamW on the trainable parameters; no weight decay on biases and other 1-D parameters (as Omni-AD's code).

        The schedule multiplies each group's first rate, the same for all optimizers.
        """
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)]

    def rate_factor(self, progress: float) -> float:
        """What multiplies all rates at this share of the steps, besides the settings' drop: a method's own schedule."""
        return 1.0

    def blocks(self) -> Iterable[nn.Module]:
        """Repeated parts that `training.compile` compiles one by one; none by default."""
        return ()

    def never_run(self) -> Sequence[nn.Module]:
        """Parts that the published parameter counts of this method include, though its code never runs them.

        They are not part of the model; `omniad complexity` builds them to count as print does.
        """
        return []

    @property
    def draws(self) -> bool:
        """Whether inference is random: the same image gives other maps in the next call."""
        return False

    def seed_draws(self, seed: int) -> None:
        """Start what is drawn in inference from a seed; the same seed repeats the same draws."""
        self.generator.manual_seed(seed)
