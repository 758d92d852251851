"""Roughly how long trainings take on a CPU: said before they start, because it can be weeks."""

from __future__ import annotations

import functools
import time

import torch

from omniad.config import RunSettings
from omniad.models.complexity import complexity

# Share of a large matrix product's speed that training reaches: its convolutions, norms and copies wait for memory.
EFFICIENCY = 0.4


def cpu_hours(run: RunSettings, images: int) -> float:
    """Hours that a run with this many training images takes on this machine's CPU, within a factor of two or so."""
    macs = complexity(run.model, run.data.image_size)[1]
    operations = 6 * macs * images * run.training.epochs  # two a multiply-add; the backward pass costs two forward ones
    return operations / (EFFICIENCY * _matrix_speed()) / 3600


@functools.cache
def _matrix_speed(side: int = 1024, repeats: int = 5) -> float:
    """Operations a second in the product of two matrices."""
    a = torch.randn(side, side)
    torch.mm(a, a)  # the first product also starts the threads
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, a)
    return repeats * 2 * side**3 / (time.perf_counter() - start)
