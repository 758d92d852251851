"""Estimate a training's time: its computation divided by the processor's speed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import cast

import torch

from omniad.config import ModelSettings, RunSettings, TrainingSettings, known
from omniad.devices import is_out_of_memory
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines.mambaad import state_updates
from omniad.models.baselines.selective_scan import has_kernel
from omniad.models.checkpoint import METHODS, epochs_of
from omniad.models.complexity import MacCounter, complexity, complexity_by_part
from omniad.models.coreset import ROWS, likeness
from omniad.models.method import TrainingFree
from omniad.parallel import usable_cores
from omniad.training.cuda_graph import WARM_UP
from omniad.training.loop import make_step
from omniad.wording import duration

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
BATCH = 8  # images of a timed pass through an encoder
PATIENCE = 1.0  # seconds for timing one piece of a preparation
# Of a named card's peak that a training reaches: an H200's, at 66 ms a step of the default model (docs/performance.md).
ASSUMED_SHARE = 0.14

# Of MambaAD's scan, forward and backward. The kernel: a state's step in multiply-adds, at the rate of the rest of a
# training, as measured on an H200 (56 of the 97 ms of a step of 16 images). Plain PyTorch: measured on one core; on a
# GPU a guess, by some 25 kernels a position.
KERNEL_WORK = 24
PLAIN_STEPS_A_CORE, PLAIN_STEPS_A_GPU = 4e7, 3e9  # a second
REFUSED_DAYS = 2  # of the scan alone, in plain PyTorch


def training_work(run: RunSettings) -> float:
    """Multiply-adds that a training step does for each image; the backward pass costs two forward ones."""
    if run.model.method == "omni-ad":
        parts = complexity_by_part(run.model, run.data.image_size)
        return 3 * sum(macs for name, (_, macs) in parts.items() if name != "encoder")
    with torch.device("meta"):  # shapes without numbers
        model = build_model(run.model)
        settles = model.features_settle_at(run.training)
        if not settles:
            return 3 * complexity(run.model, run.data.image_size)[1]  # an upper bound: the encoder is not told apart
        features = model.encode(torch.empty(1, 3, run.data.image_size, run.data.image_size))
        macs = []
        for progress in (0.0, settles):
            with MacCounter() as counter:
                model.loss(features, run.training, progress)
            macs.append(counter.macs)
    return 3 * (settles * macs[0] + (1 - settles) * macs[1])


def training_bytes(run: RunSettings) -> int:
    """Memory of a training before its activations: weights, and of what is trained a gradient and two moments."""
    with torch.device("meta"):
        parameters = list(build_model(run.model).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return 4 * (sum(p.numel() for p in parameters) + 3 * trained)


def training_hours(run: RunSettings, images: int, speed: float, plain_scan: float | None = None) -> float:
    """Hours of a training on so many images.

    Args:
        speed: multiply-adds a second (`measured_speed`, `card_speed`).
        plain_scan: see `plain_scan_speed`.
    """
    if METHODS[run.model.method].training_free:
        return preparation_work(run, images) / speed / 3600
    scan = scan_work(run) / (plain_scan or speed / KERNEL_WORK)
    return (training_work(run) / speed + scan) * images * epochs_of(run) / 3600


def scan_work(run: RunSettings) -> int:
    """Steps of single states that a MambaAD's scans take for an image; 0 for other methods."""
    return state_updates(run.model, run.data.image_size) if run.model.method == "mambaad" else 0


def plain_scan_speed(device: torch.device) -> float | None:
    """Steps of single states a second, forward and backward, where the scan runs in plain PyTorch; else None."""
    if device.type != "cuda":
        return PLAIN_STEPS_A_CORE * usable_cores()
    return None if has_kernel() else PLAIN_STEPS_A_GPU


def refuse_plain_scan(run: RunSettings, images: int, device: torch.device) -> None:
    """Raise a UserError where MambaAD's scan would take days, because no kernel runs it."""
    speed = plain_scan_speed(device)
    seconds = scan_work(run) * images * epochs_of(run) / speed if speed else 0.0
    if seconds > REFUSED_DAYS * 86400:
        raise UserError(
            f"{run.dataset}/{run.run}: MambaAD's scan in plain PyTorch would take about {duration(seconds)} on this "
            f"{'GPU' if device.type == 'cuda' else 'CPU'}; train it on a GPU with Triton and a C compiler, or start it "
            "anyway with `omniad train --force`"
        )


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

    Raises:
        UserError: memory does not suffice.
    """
    try:
        return _measured_speed(device, steps)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory on {device} for training steps of the default model's size") from error


def _measured_speed(device: torch.device, steps: int) -> float:
    training = TrainingSettings(batch_size=4 if device.type == "cpu" else 16)
    model = build_model(ModelSettings()).to(device).train()
    sides = ((64, 64), (128, 32), (256, 16))  # channels and side of ResNet-34's maps at 256 pixels
    batch = [torch.rand(training.batch_size, channels, side, side, device=device) for channels, side in sides]
    optimizers = model.make_optimizers(training)
    step = make_step(model, optimizers, training, device)
    step(batch, 0.0)[0].item()  # waits for a GPU
    seconds = []
    for _ in range(steps if device.type == "cpu" else steps + WARM_UP):  # the last ones replay a recorded step
        start = time.perf_counter()
        step(batch, 0.0)[0].item()
        seconds.append(time.perf_counter() - start)
    parts = complexity_by_part(ModelSettings())
    work = 3 * (parts["neck"][1] + parts["decoder"][1]) * training.batch_size
    return work / min(seconds)


def preparation_work(run: RunSettings, images: int) -> float:
    """Multiply-adds of a training-free method's preparation."""
    with torch.device("meta"), torch.no_grad():
        model = cast(TrainingFree, build_model(run.model))
        with MacCounter() as encoder:
            model.encode(torch.empty(1, 3, run.data.image_size, run.data.image_size))
        products = model.products(images, run.data.image_size)
    return images * encoder.macs + sum(count * length for count, length in products)


def preparation_seconds(run: RunSettings, images: int, scored: int, device: torch.device) -> float:
    """Seconds of a training-free method's preparation, and of scoring some images, by timing small pieces of it."""
    size = run.data.image_size
    model = cast(TrainingFree, build_model(run.model).to(device).eval())
    batch = torch.rand(BATCH, 3, size, size, device=device)
    features = model.encode(batch)
    seconds = (images + scored) * _fastest(lambda: model.encode(batch)) / BATCH
    seconds += scored * _fastest(lambda: model.anomaly_maps(features, size)) / BATCH
    for count, length in model.products(images, size):
        points = torch.rand(ROWS, length, device=device)
        seconds += count * _fastest(lambda points=points: likeness(points, points).amax(dim=1)) / ROWS**2
    return seconds


def _fastest(piece: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest run, after one to warm up: other work on the machine only ever makes one slower.

    A piece that is slow all the same runs once more only, so that no estimate takes longer than what it estimates.
    """
    seconds = []
    with torch.inference_mode():
        for _ in range(times + 1):
            start = time.perf_counter()
            piece()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            if seconds[1:] and sum(seconds) > PATIENCE:
                break
    return min(seconds[1:])


def cpu_hours(run: RunSettings, images: int, scored: int) -> float:
    """Hours that a run with this many training images, and scores for a threshold, takes on this machine's CPU."""
    with torch.random.fork_rng([]):
        cpu = torch.device("cpu")
        if METHODS[run.model.method].training_free:
            return preparation_seconds(run, images, scored, cpu) / 3600
        return training_hours(run, images, measured_speed(cpu), plain_scan_speed(cpu))
