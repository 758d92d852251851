"""`training.cuda_graph`: a training step recorded once as a CUDA graph, then replayed.

A step of the default model is thousands of short kernels, which Python launches more slowly than a GPU runs them. A
replay is one launch. It repeats exactly what was recorded, at the same addresses, so a batch is copied to where the
recorded one lay, and what Python decides must not change from step to step. The learning rate is such a decision: it
is part of the recording, which is repeated when the rate drops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omniad.files import in_one_line
from omniad.models import Method

WARM_UP = 3  # steps before the recording: libraries choose their kernels, optimizers make their state

Step = Callable[[list[Tensor], float], tuple[Tensor, Tensor]]  # batch, share of steps done -> loss, gradient norm
Record = Callable[[Callable[[], tuple[Tensor, Tensor]]], tuple[Callable[[], None], tuple[Tensor, Tensor]]]
log = logging.getLogger(__name__)


class GraphedStep:
    """A training step that is replayed as soon as it can be; the same updates as without.

    Args:
        step: one update, without waiting for the device.
        record: takes the work of a step without doing it; gives what does it, and where its results will lie.
    """

    def __init__(
        self, model: Method, step: Step, optimizers: list[torch.optim.Optimizer], record: Record | None = None
    ):
        self.model, self.optimizers = model, optimizers
        self._step = step
        self._record = record or record_graph
        self._warm_up = WARM_UP
        self._replay: Callable[[], None] | None = None
        self._rates: list[float] = []  # that are in the recording
        self._batch: list[Tensor] = []  # what the recording reads and writes
        self._results: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        self.failure = ""  # why there is no recording

    def __call__(self, batch: list[Tensor], progress: float) -> tuple[Tensor, Tensor]:
        """One update; the loss and the gradient's norm, on the device."""
        if self._warm_up or self.failure:
            self._warm_up -= self._warm_up > 0
            with _side_stream(batch[0].device):
                return self._step(batch, progress)
        if self._replay is None or self._rates != self._current_rates():
            self._prepare(batch, progress)
            if self._replay is None:
                return self._step(batch, progress)
        self.model.prepare_step(batch[0].device)
        for recorded, new in zip(self._batch, batch, strict=True):
            recorded.copy_(new)
        self._replay()
        loss, norm = self._results
        return loss.clone(), norm.clone()  # the next replay writes over them

    def _prepare(self, batch: list[Tensor], progress: float) -> None:
        """Record a step; if that fails, say so and continue without."""
        self._replay = None  # before its memory is wanted again
        self._batch = [part.clone() for part in batch]
        self._rates = self._current_rates()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        try:
            if any("capturable" not in group for optimizer in self.optimizers for group in optimizer.param_groups):
                raise RuntimeError("its optimizer counts its steps in Python")
            with _capturable(self.optimizers):
                self._replay, self._results = self._record(lambda: self._step(self._batch, progress))
        except (RuntimeError, AssertionError) as error:
            self.failure = in_one_line(error)
            log.warning("training.cuda_graph: this step can't be recorded (%s); training without a graph", self.failure)

    def _current_rates(self) -> list[float]:
        return [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]


def record_graph(work: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    """`work` as a CUDA graph. Raises RuntimeError where it waits for the device or asks the CPU for something."""
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        # Other threads may go on reading and pinning batches meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = work()
    except BaseException:
        generator.graphsafe_set_state(
            before
        )  # else it refuses to draw, because it believes that it is still being recorded
        raise
    return graph.replay, results


@contextmanager
def _capturable(optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """Let optimizers be recorded. Only here: the flag is saved with their state, and means nothing on a CPU."""
    groups: list[dict[str, Any]] = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [group["capturable"] for group in groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group, flag in zip(groups, before, strict=True):
            group["capturable"] = flag


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Steps before the recording run beside the default stream, which a recording must not depend on."""
    if device.type != "cuda":
        yield
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
