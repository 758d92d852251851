"""StableAdamW: AdamW whose step is shortened, tensor by tensor, where gradients outgrow their history.

Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS 2023; with
AMSGrad's maximum of the second moments, as Dinomaly's authors use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-10


class StableAdamW(torch.optim.Optimizer):
    """Decoupled weight decay, then Adam's step divided by max(1, RMS of gradient / sqrt(second moment))."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients that are there; `closure` is never needed."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad, self.state[parameter], group["lr"], group["weight_decay"])


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], rate: float, decay: float) -> None:
    if not state:
        state["step"] = 0
        state["mean"], state["square"], state["largest"] = (torch.zeros_like(parameter) for _ in range(3))
    state["step"] += 1
    mean, square, largest = state["mean"], state["square"], state["largest"]
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    torch.maximum(largest, square, out=largest)
    first, second = (1 - beta ** state["step"] for beta in BETAS)  # both moments start at zero
    denominator = (largest.sqrt() / math.sqrt(second)).add_(EPSILON)
    shortened = (gradient / denominator).square().mean().sqrt().clamp(min=1.0)
    parameter.mul_(1 - rate * decay)
    parameter.sub_(mean / denominator * (rate / first / shortened))
