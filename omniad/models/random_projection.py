"""The `released` reading's output projections: random layers, redrawn in every forward pass and never trained."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomProjection(nn.Module):
    """Linear-SiLU-Linear (D -> D -> D) with the weights that `RandomProjections.draw` drew last.

    Nothing is registered: no parameter, no entry in a checkpoint. Gradients pass through to the input.
    """

    layers: tuple[Tensor, Tensor]  # (D + 1, D) each: the weight's rows, then the bias

    def __init__(self, width: int, all_projections: RandomProjections):
        super().__init__()
        self.width = width
        all_projections.members.append(self)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (layer.to(x.dtype) for layer in self.layers)
        return F.linear(F.silu(F.linear(x, first[:-1], first[-1])), second[:-1], second[-1])


class RandomProjections:
    """All random projections of a model, drawn together: one copy to the device for a forward pass.

    The generator is on the CPU, so a seed gives the same numbers on every device. They are drawn in the projections'
    order, each as PyTorch initialises `nn.Linear`: uniform in +-1/sqrt(D).
    """

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.members: list[RandomProjection] = []
        self._drawn = self._on_device = torch.empty(0, device="cpu")
        self._copied: torch.cuda.Event | None = None

    def draw(self, device: torch.device) -> None:
        """Redraw all weights; called before every forward pass.

        Not while a step is recorded as a CUDA graph: what is drawn before each replay is copied to the same place.
        """
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return
        if self._on_device.numel() == 0 or self._on_device.device != device:
            self._allocate(device)
        if device.type == "meta":
            return
        if self._copied is not None:
            self._copied.synchronize()  # the copy before this one has left the buffer
        start = 0
        for member in self.members:
            bound, size = 1 / math.sqrt(member.width), 2 * member.layers[0].numel()
            self._drawn[start : start + size].uniform_(-bound, bound, generator=self.generator)
            start += size
        if device.type == "cuda":
            self._on_device.copy_(self._drawn, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    @torch.inference_mode(False)  # the tensors serve training and inference
    def _allocate(self, device: torch.device) -> None:
        sizes = [(member.width + 1) * member.width for member in self.members]
        self._on_device = torch.empty(2 * sum(sizes), device=device)
        pinned = device.type == "cuda"
        self._drawn = torch.empty(2 * sum(sizes), device="cpu", pin_memory=True) if pinned else self._on_device
        parts = self._on_device.split([size for size in sizes for _ in range(2)])
        for number, member in enumerate(self.members):
            first, second = parts[2 * number : 2 * number + 2]
            member.layers = first.view(-1, member.width), second.view(-1, member.width)
