"""The interface that training and evaluation use for every method: features, a loss, anomaly maps and image scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.encoder import FrozenEncoder


class AllFeatures(Protocol):
    """What `encode` gives for every training image, batch by batch in the index's order; each `iter` starts again."""

    @property
    def images(self) -> int: ...

    @property
    def originals(self) -> Sequence[int]:
        """The number of the file that each is of: tiles of one large image share it."""
        ...

    def __iter__(self) -> Iterator[list[Tensor]]: ...

    def after(self, images: int) -> Iterator[list[Tensor]]:
        """The same without the first `images` images, which a killed preparation has seen."""
        ...


class Prepared(NamedTuple):
    """The progress of `Method.prepare`."""

    share: float  # of its work, in [0, 1]
    kept: Mapping[str, Tensor] = {}  # what it needs to resume from here after a kill; empty: it would start over


class Method(nn.Module, ABC):
    """A detector around a frozen encoder.

    Training calls `encode`, `prepare`, `loss` and `make_optimizers`; evaluation calls `encode`, `anomaly_maps` and
    `image_scores`. Weights are drawn from torch's global generator when it is built.
    """

    caches_features = True
    """Whether what `encode` gives depends on the image, the method and the encoder's weights alone.

    Training then rounds it to half precision and keeps it for all epochs and runs.
    """

    training_free = False
    """Whether `prepare` is the whole training (see `TrainingFree`)."""

    leaves_out = False
    """Whether a trained model can score its training images as if it had never seen them (see `LeavesOut`)."""

    same_every_step = True
    """Whether a training step does the same operations every time, all of them on the device (see cuda_graph.py)."""

    evaluated_draws = 5
    """How often an evaluation redraws if inference is random (`draws`), to measure the spread."""

    encoder: FrozenEncoder
    """Its weights come from a file (`load_weights`); all others are drawn."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.settings = settings
        self.generator = torch.Generator("cpu")  # for random draws in inference; part of the training state
        self.seed_draws(0)

    def load_start(self, file: Path) -> None:
        """Fill what starts from published weights beside the encoder; called for methods in `START_WEIGHTS` alone."""
        raise NotImplementedError(f"{type(self).__name__} has no pretrained weights but its encoder's")

    def features_settle_at(self, training: TrainingSettings) -> float:
        """From which share of a training on features are constants; before, what `encode` uses is itself trained."""
        return 0.0

    def encoding_parts(self) -> Sequence[nn.Module]:
        """The networks that `encode` uses; their weights decide whether kept features are still valid."""
        return [self.encoder]

    @abstractmethod
    def forward(self, images: Tensor) -> object:
        """Normalised images (B, 3, H, W) through every network once; what `omniad complexity` counts."""

    @abstractmethod
    def encode(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> what the frozen encoder sees in them; without gradients."""

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterable[Prepared]:
        """Compute what depends on all training features at once, before the first step; by default nothing.

        A generator. The trainer runs it once, in training mode and without gradients. What it computes goes into
        parameters or buffers whose shapes are known when the model is built, because that is how a checkpoint is
        loaded. What it draws comes from torch's global generator.

        It yields between pieces of work that take seconds, say after each batch. Only there can the trainer react to a
        signal, show progress and save. It saves only where the method yields something to keep: the model's state dict,
        the random state and `kept`.

        Args:
            features: of all training images, the last incomplete batch included.
            kept: what a killed preparation last saved, on the CPU; the model and the random state are as they were
                then. Empty at the first start, and for methods that keep nothing: start from the beginning.
        """
        return ()

    def draw(self, training: TrainingSettings, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """What a training step draws for its normalised images (B, 3, H, W), on the CPU; nothing by default.

        It follows in the batch on what `encode` gives. Other threads call it ahead of the step, with a generator of
        that step's own, so that neither their number nor a resume changes what is drawn.
        """
        return []

    @abstractmethod
    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float) -> Tensor:
        """The loss of one training step, a scalar, on a batch of what `encode` and then `draw` gave.

        `progress` is the share of all steps that are done, in [0, 1): for methods that train in phases.
        """

    @abstractmethod
    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Maps (B, size, size), float32, before any smoothing by `evaluation.sigma`; higher is more anomalous."""

    def image_scores(self, maps: Tensor) -> Tensor:
        """Smoothed maps (B, S, S) -> scores (B,); by default each map's maximum."""
        return maps.amax(dim=(1, 2))

    def expected_map(self, size: int) -> Tensor:
        """What good images' maps show, which is not anomalous, (size, size): see `PatchMemory`; by default 0."""
        return torch.zeros(size, size)

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

    def prepare_step(self, device: torch.device) -> None:
        """What the CPU does before a recorded step is replayed; nothing by default."""

    def blocks(self) -> Iterable[nn.Module]:
        """Repeated parts that `training.compile` compiles one by one; none by default."""
        return ()

    def never_run(self) -> Sequence[nn.Module]:
        """What the published parameter count of this method includes besides the model's own parameters.

        Parts that its code never runs, or constants registered as parameters. `omniad complexity` builds them to count
        as the publication does.
        """
        return []

    @property
    def draws(self) -> bool:
        """Whether inference is random: the same image gives other maps in the next call."""
        return False

    def seed_draws(self, seed: int) -> None:
        """Start what is drawn in inference from a seed; the same seed repeats the same draws."""
        self.generator.manual_seed(seed)


class TrainingFree(Method):
    """A method that only looks at the training features once: `prepare`, and no epochs, steps or loss."""

    training_free = True

    @abstractmethod
    def products(self, images: int, image_size: int) -> list[tuple[int, int]]:
        """What `prepare` multiplies beyond the encoder's pass over so many images: (scalar products, their length)."""

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no training steps")

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """None, because nothing is learned step by step."""
        return []


class LeavesOut(TrainingFree):
    """A training-free method that knows which training image each thing it keeps is from."""

    leaves_out = True

    @abstractmethod
    def anomaly_maps(self, features: list[Tensor], size: int, own: Tensor | None = None) -> Tensor:
        """See `Method.anomaly_maps`; `own` (B,): these are training images, and what is kept of them does not count.

        `own` holds their numbers in `AllFeatures.originals`.
        """
