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

import csv
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from omniad.config import CONFIG_FOLDER, ModelSettings, Settings, run_settings
from omniad.errors import UserError
from omniad.models.checkpoint import build_model
from omniad.models.decoder import Stage
from omniad.models.omniad import OmniAD

VARIANTS = ("released", "equations")
OTHERS = "other_methods.csv"  # costs that other papers print of Table I's other methods
RESOLUTIONS = (256, 384, 512, 640, 768, 896, 1024)


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


# Function -> its count from (output, first input, second input). Norm layers count as fvcore estimates them: 2 an
# element for BatchNorm in eval mode, 4 for normalising, 5 with weights after it; bilinear resizing counts as 4.
RULES: dict[str, Callable[..., int]] = {
    "conv2d": lambda out, x, weight, *_, **__: out.numel() * prod(weight.shape[1:]),
    "conv_transpose2d": lambda out, x, weight, *_, **__: x.numel() * prod(weight.shape[1:]),
    "linear": lambda out, x, weight, *_, **__: out.numel() * weight.shape[1],
    "matmul": lambda out, x, *_, **__: out.numel() * x.shape[-1],
    "scaled_dot_product_attention": lambda out, query, key, *_, **__: (query.numel() + out.numel()) * key.shape[-2],
    "batch_norm": lambda out, *_, **__: 2 * out.numel(),
    "instance_norm": lambda out, *_, weight=None, **__: (4 if weight is None else 5) * out.numel(),
    "layer_norm": lambda out, *_, **__: 5 * out.numel(),
    "adaptive_avg_pool2d": lambda out, x, *_, **__: x.numel(),
    "interpolate": lambda out, *_, mode="nearest", **__: (4 if mode == "bilinear" else 1) * out.numel(),
}


def complexity_rows(settings: Settings) -> list[dict[str, Any]]:
    """Parameters and multiply-adds of every table row of Omni-AD, in both readings, beside what the paper prints.

    Keys: table, row, variant, parameters, macs, reported_parameters_m, reported_flops_g (None where not printed),
    note (on the printed FLOPs of another method).
    A row that stands in a table for several data sets is the same model and listed once. Another method has no
    readings; its name stands for the variant.
    """
    counted: dict[str, tuple[int, int]] = {}
    others = CONFIG_FOLDER / "paper" / OTHERS
    notes = {key: line["note"] for key, line in _lines(others).items()}
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for table, entry in settings.tables.items():
        lines = _lines(others) | (_lines(CONFIG_FOLDER / "paper" / entry.paper) if entry.paper else {})
        printed = {key: float(line["value"]) for key, line in lines.items()}
        for row in entry.rows:
            if not row.run:
                continue
            configured = run_settings(settings, row.dataset, row.run).model
            ours = configured.method == "omni-ad"
            for variant in VARIANTS if ours else (configured.method,):
                model = configured.model_copy(update={"variant": variant}) if ours else configured
                key = model.model_dump_json()
                if key not in counted:
                    counted[key] = complexity(model, settings.data.image_size)
                rows.setdefault(
                    (table, row.label, variant),
                    {
                        "table": table,
                        "row": row.label,
                        "variant": variant,
                        "parameters": counted[key][0],
                        "macs": counted[key][1],
                        "reported_parameters_m": printed.get((row.dataset, row.label, "parameters")),
                        "reported_flops_g": printed.get((row.dataset, row.label, "FLOPs")),
                        "note": notes.get((row.dataset, row.label, "FLOPs"), ""),
                    },
                )
    return list(rows.values())


def resolution_rows(settings: Settings, sizes: Iterable[int] = RESOLUTIONS) -> list[dict[str, Any]]:
    """What the model costs at several image sizes, with its learnable tokens and with two plain self-attentions.

    Keys: attention (learnable, plain), image_size (pixels), parameters, macs.
    """
    models = {
        "learnable": settings.model,
        "plain": settings.model.model_copy(update={"first_attention": "none", "second_attention": "none"}),
    }
    rows = []
    for attention, model in models.items():
        for size in sizes:
            parameters, macs = complexity(model, size)
            rows.append({"attention": attention, "image_size": size, "parameters": parameters, "macs": macs})
    return rows


def _lines(file: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """The lines of a table of the paper by (data set, row, metric)."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return {(line["dataset"], line["row"], line["metric"]): line for line in csv.DictReader(lines)}
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; it has numbers that the paper prints") from None
