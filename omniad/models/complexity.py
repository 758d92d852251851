"""Parameters and operations of a model, counted as the paper and its family count them.

Parameters: every registered one, the frozen encoder (cut after layer3) included; of another method also those that its
published count includes though they never run (`Method.never_run`). Operations ("FLOPs" in the tables): the convention
of the library fvcore for one image in eval mode, where a multiply-add is 1 for convolutions, linear layers and matrix
products, plus norm layers, resizing and global pooling; softmax, activations and additions are not counted. The
`released` reading's random projection is computed, so it counts as operations, but it is no parameter.

fvcore itself runs the model, which takes minutes and gigabytes at 480 million parameters; here only shapes are
computed. The tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from omniad.config import ModelSettings
from omniad.models.checkpoint import build_model
from omniad.models.decoder import Stage
from omniad.models.omniad import OmniAD


def complexity(settings: ModelSettings, image_size: int = 256) -> tuple[int, int]:
    """(parameters, multiply-adds) of one square RGB image; takes no memory for weights."""
    if settings.method == "omni-ad":
        parts = complexity_by_part(settings, image_size).values()
        return sum(parameters for parameters, _ in parts), sum(macs for _, macs in parts)
    with torch.device("meta"), torch.no_grad():  # shapes without numbers
        model = build_model(settings).eval()
        with MacCounter() as counter:
            model(torch.empty(1, 3, image_size, image_size))
        parameters = sum(p.numel() for part in (model, *model.never_run()) for p in part.parameters())
    return parameters, counter.macs


def complexity_by_part(settings: ModelSettings, image_size: int = 256) -> dict[str, tuple[int, int]]:
    """(parameters, multiply-adds) of Omni-AD's `encoder`, `neck` and `decoder`."""
    decoder, outputs = 0, []
    with torch.device("meta"), torch.no_grad():
        model = OmniAD(settings).eval()
        with MacCounter() as encoder:
            features = model.encode(torch.empty(1, 3, image_size, image_size))
        model.projections.draw(torch.device("meta"))
        with MacCounter() as neck:
            x = model.neck(features)
        for stage in cast(Iterable[Stage], model.decoder.stages):
            with MacCounter() as expand:
                x = x if stage.expand is None else stage.expand(x)
            with MacCounter() as block:  # a stage's blocks are alike: its first is run and counted for all
                x = stage.blocks[0](x)
            decoder += expand.macs + len(stage.blocks) * block.macs
            outputs.append(x)
        with MacCounter() as restore:
            model.decoder.restore(outputs[:0:-1])
        decoder += restore.macs
    macs = {"encoder": encoder.macs, "neck": neck.macs, "decoder": decoder}
    parts = dict(model.named_children())
    return {name: (sum(p.numel() for p in parts[name].parameters()), count) for name, count in macs.items()}


class MacCounter(TorchFunctionMode):
    """Adds up the multiply-adds of what is called in its block, by fvcore's rules."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        rule = RULES.get(getattr(func, "__name__", ""))
        if rule is not None:
            self.macs += rule(out, *args, **(kwargs or {}))
        return out


RESIZING = {"nearest": 1, "bilinear": 4}  # of an output; fvcore does not know the others, nor antialiasing
# Function -> its count from (output, first input, second input). Norm layers count as fvcore estimates them: 2 an
# element for BatchNorm in eval mode, 4 for normalising, 5 with weights after it.
RULES: dict[str, Callable[..., int]] = {
    "conv2d": lambda out, x, weight, *_, **__: out.numel() * prod(weight.shape[1:]),
    "conv_transpose2d": lambda out, x, weight, *_, **__: x.numel() * prod(weight.shape[1:]),
    "linear": lambda out, x, weight, *_, **__: out.numel() * weight.shape[1],
    "matmul": lambda out, x, *_, **__: out.numel() * x.shape[-1],
    "scaled_dot_product_attention": lambda out, query, key, *_, **__: (query.numel() + out.numel()) * key.shape[-2],
    "batch_norm": lambda out, *_, **__: 2 * out.numel(),
    "instance_norm": lambda out, *_, weight=None, **__: (4 if weight is None else 5) * out.numel(),
    "group_norm": lambda out, *_, **__: 5 * out.numel(),
    "layer_norm": lambda out, *_, **__: 5 * out.numel(),
    "adaptive_avg_pool2d": lambda out, x, *_, **__: x.numel(),
    "interpolate": lambda out, *_, mode="nearest", antialias=False, **__: (
        0 if antialias else RESIZING.get(mode, 0) * out.numel()
    ),
}
