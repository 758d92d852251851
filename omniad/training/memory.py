"""The GPU memory that a training needs, counted from shapes alone (`meta` tensors): nothing is computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from omniad.config import ModelSettings, RunSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.checkpoint import METHODS

STATES = 3  # values beside each trained one: its gradient and AdamW's two moments
TRANSIENT = 1.15  # of what autograd keeps: gradients of activations, workspaces of libraries
SHARE = 0.9  # of the free memory that is counted on; the allocator's pieces don't fill all of it


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes, in single precision."""

    weights: int  # of the model, the frozen encoder's included
    states: int  # gradients and the optimizer's moments
    kept: int  # by autograd, from a step's forward to its backward pass

    @property
    def still_wanted(self) -> int:
        """When the weights lie on the device, and nothing was trained yet."""
        return self.states + round(TRANSIENT * self.kept)

    @property
    def total(self) -> int:
        return self.weights + self.still_wanted


def training_memory(run: RunSettings) -> TrainingMemory | None:
    """Of one run at its batch size; None for a method without steps, or whose step does not run on shapes alone.

    (MambaAD's scan does, but in plain PyTorch, which keeps three times as much as the kernel.)
    """
    if METHODS[run.model.method].training_free or run.model.method == "mambaad":
        return None
    return _counted(run.model.model_dump_json(), run.training.model_dump_json(), run.data.image_size)


@functools.lru_cache(maxsize=64)
def _counted(model_json: str, training_json: str, size: int) -> TrainingMemory | None:
    training = TrainingSettings.model_validate_json(training_json)
    with torch.device("meta"), torch.random.fork_rng([]):
        model = build_model(ModelSettings.model_validate_json(model_json)).train()
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        try:
            features = model.encode(torch.empty(training.batch_size, 3, size, size))
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _FusedAttention():
                loss = model.loss(features, training, 0.0)  # held, so that no storage counts for another
        except (NotImplementedError, RuntimeError):
            return None
        del loss
    trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    weights = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    return TrainingMemory(weights, STATES * trained, sum(kept.values()))


class _FusedAttention(TorchFunctionMode):
    """Attention keeps what a GPU's fused kernel keeps; on shapes alone PyTorch would take the steps one by one."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        b, heads, n, _ = query.shape
        out = query.new_empty(b, n, heads, value.shape[-1]).transpose(1, 2)  # as the kernel lays it out
        ctx.save_for_backward(query, key, value, out, query.new_empty(b, heads, n))  # the last: each row's sum
        return out


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def shortage(run: RunSettings, device: torch.device) -> str:
    """What to do when memory ran out; remedies that do not change the numbers come first."""
    size, wanted = run.training.batch_size, training_memory(run)
    remedies = []
    if device.type == "cuda":
        if METHODS[run.model.method].caches_features and run.training.cache_gib:
            remedies.append("training.cache_gib: 0 keeps no features in its memory")
        remedies.append("end other programs on it, or use one with more memory")
    lower = f"a lower training.batch_size (now {size}) changes the result"
    needs = f" (this training takes about {wanted.total / 2**30:.1f} GiB)" if wanted and device.type == "cuda" else ""
    return f"out of memory on {device}{needs}: {'; '.join([*remedies, lower])}"
