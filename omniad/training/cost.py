"""What a training costs: its computation, divided by how fast a processor trains."""

from __future__ import annotations

import functools
import time

import torch

from omniad.config import ModelSettings, RunSettings, TrainingSettings, known
from omniad.models import build_model
from omniad.models.checkpoint import METHODS
from omniad.models.complexity import complexity, complexity_by_part
from omniad.training.loop import train_step

# Peak of single precision outside tensor cores, operations a second, as the makers' data sheets print it.
CARDS = {
    "T4": 8.1e12,
    "V100": 15.7e12,
    "A100": 19.5e12,
    "A10": 31.2e12,
    "RTX3090": 35.6e12,
    "RTX4090": 82.6e12,
    "L40S": 91.6e12,
    "H100": 67e12,
    "H200": 67e12,
}
ASSUMED_SHARE = 0.2  # of a named card's peak that a training reaches: a guess, no card was measured


def training_work(run: RunSettings) -> float:
    """Multiply-adds that a training step does for each image; the backward pass costs two forward ones."""
    total = complexity(run.model, run.data.image_size)[1]
    if not METHODS[run.model.method].caches_features or run.model.method != "omni-ad":
        return 3 * total  # an upper bound where the encoder is not told apart
    return 3 * (total - complexity_by_part(run.model, run.data.image_size)["encoder"][1])


def training_hours(run: RunSettings, images: int, speed: float) -> float:
    """Hours of a training on so many images; `speed` in multiply-adds a second (`measured_speed`, `card_speed`)."""
    return training_work(run) * images * run.training.epochs / speed / 3600


def card_speed(card: str) -> float:
    """Multiply-adds a second on a named card, by its data sheet and a guess (ASSUMED_SHARE).

    Raises:
        UserError: that card is not listed.
    """
    return ASSUMED_SHARE * CARDS[known(card, CARDS, "card")] / 2


@functools.cache
def measured_speed(device: torch.device, steps: int = 3) -> float:
    """Multiply-adds a second in training steps of the default model on random features, after one to warm up.

    The fastest step counts: other work on the machine only ever makes one slower.
    """
    training = TrainingSettings(batch_size=4 if device.type == "cpu" else 16)
    model = build_model(ModelSettings()).to(device).train()
    sides = ((64, 64), (128, 32), (256, 16))  # channels and side of ResNet-34's maps at 256 pixels
    batch = [torch.rand(training.batch_size, channels, side, side, device=device) for channels, side in sides]
    optimizers = model.make_optimizers(training)
    train_step(model, batch, optimizers, training, 0.0)[0].item()  # waits for a GPU
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        train_step(model, batch, optimizers, training, 0.0)[0].item()
        seconds.append(time.perf_counter() - start)
    parts = complexity_by_part(ModelSettings())
    work = 3 * (parts["neck"][1] + parts["decoder"][1]) * training.batch_size
    return work / min(seconds)


def cpu_hours(run: RunSettings, images: int) -> float:
    """Hours that a run with this many training images takes on this machine's CPU."""
    with torch.random.fork_rng([]):
        return training_hours(run, images, measured_speed(torch.device("cpu")))
