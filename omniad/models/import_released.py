"""Make a run folder from a checkpoint that the authors' code wrote (easyoo/Omni-AD, commit d85c5f4), for any depths.

That code's output projection is in no checkpoint: it is left out (`none`) or, as released, drawn at random in each call
(`random`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omniad.config import ModelSettings, RunSettings, SourceSettings, known, load_settings, validate
from omniad.errors import UserError
from omniad.models.checkpoint import build_model, save_model
from omniad.models.encoder import ARCHITECTURES, Encoder, check_entries, read_entries
from omniad.runs.files import CONFIG, MODEL
from omniad.runs.provenance import save_run_settings

# Our names -> released names, applied in order.
RENAMES = (
    (r"^encoder\.", "net_t."),
    (r"^neck\.bottlenecks\.", "Neck.bn_layer."),
    (r"^neck\.down(\d)\.0\.", r"Neck.conv\1."),
    (r"^neck\.down(\d)\.1\.", r"Neck.bn\1."),
    (r"^neck\.lateral(\d)\.0\.", r"Neck.conv\g<1>1."),
    (r"^neck\.lateral(\d)\.1\.", r"Neck.bn\g<1>1."),
    (r"^neck\.fuse\.0\.", "Neck.convf."),
    (r"^neck\.fuse\.1\.", "Neck.bnf."),
    (r"^decoder\.stages\.(\d+)\.expand\.linear\.", r"net_s.layers_up.\1.upsample.expand."),
    (r"^decoder\.stages\.(\d+)\.expand\.norm\.", r"net_s.layers_up.\1.upsample.norm."),
    (r"^decoder\.stages\.(\d+)\.blocks\.(\d+)\.", r"net_s.layers_up.\1.blocks.\2.blocks.0."),
    (r"\.global_branch\.first\.tokens$", ".toProxy.learnable_q"),
    (r"\.global_branch\.first\.bias$", ".toProxy.pe2"),
    (r"\.global_branch\.first\.query\.", ".toProxy.q."),
    (r"\.global_branch\.first\.key_value\.", ".toProxy.kv_x."),
    (r"\.global_branch\.second\.tokens$", ".toProxy.learnable_kv"),
    (r"\.global_branch\.second\.bias$", ".toProxy.pe1"),
    (r"\.global_branch\.second\.query\.", ".toProxy.q_2."),
    (r"\.global_branch\.second\.key_value\.", ".toProxy.kv_y."),
    (r"\.local_branch\.conv(\d)\.0\.", r".conv\1\1.dconv.0."),
    (r"\.local_branch\.conv(\d)\.3\.", r".conv\1\1.pconv.0."),
    (r"\.local_branch\.merge\.0\.", ".mlp.0."),
    (r"\.mlp\.linear1\.", ".l."),
    (r"\.mlp\.linear2\.", ".l2."),
)
FIRST_BLOCK = "net_s.layers_up.0.blocks.0.blocks.0.toProxy."
OUTSIDE_A_CHECKOUT = SourceSettings(title="not configured", layout="mvtec", folder="data/mvtec")


def import_released(
    checkpoint: str | Path, run_dir: str | Path, projection: Literal["none", "random"], dataset: str = "mvtec"
) -> None:
    """Write `config.yaml` and `model.safetensors` of a run named `imported` into `run_dir`.

    Args:
        checkpoint: a bare state dict, or one under `net`; read without running code from it.
        run_dir: a new folder.
        projection: what to use for the output projection, which no checkpoint contains.
        dataset: the data set the checkpoint was trained on.

    Raises:
        UserError: the file can't be read; entries are missing, unknown or mis-shaped (each is named as in the
            checkpoint); the folder already holds a run.
    """
    folder = Path(run_dir)
    if (folder / CONFIG).exists() or (folder / MODEL).exists():
        raise UserError(f"{folder}: already holds a run; choose a new folder")
    project = load_settings()
    sources = project.sources or {dataset: OUTSIDE_A_CHECKOUT}
    source = sources[known(dataset, sources, "data set")]
    entries = read_entries(checkpoint)
    settings = infer_settings(entries, projection, str(checkpoint))
    with torch.device("meta"):  # names and shapes only: every weight comes from the checkpoint
        model = build_model(settings)
    names = {released_name(name): name for name in model.state_dict()}
    expected = {released: model.state_dict()[name] for released, name in names.items()}
    check_entries(expected, entries, str(checkpoint))
    counters = {name: torch.zeros(()) for name in expected.keys() - entries.keys()}  # BatchNorm's, which nothing uses
    weights = {name: (entries | counters)[released].to(expected[released].dtype) for released, name in names.items()}
    model.load_state_dict(weights, assign=True)
    run = RunSettings(
        dataset=dataset,
        run="imported",
        source=source,
        data=project.data,
        model=settings,
        training=project.training,
        evaluation=project.evaluation,
        note="imported from a checkpoint of the authors' code; the training settings here are not its own",
    )
    save_model(model, settings, folder / MODEL)
    save_run_settings(run, folder)


def released_name(name: str) -> str:
    """An entry of our `released` model by the name it has in the authors' checkpoints."""
    for ours, theirs in RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def infer_settings(entries: Mapping[str, Tensor], projection: str, where: str) -> ModelSettings:
    """Encoder, depths, tokens and heads of a released checkpoint, from its names and shapes.

    Raises:
        UserError: it is no Omni-AD checkpoint (parts without a single entry), or its number of tokens is not allowed.
    """
    absent = [part for part in ("net_t.", "Neck.", "net_s.") if not any(name.startswith(part) for name in entries)]
    if absent:
        raise UserError(
            f"{where}: not a checkpoint of the released Omni-AD: no entry starts with {' or '.join(absent)}"
        )
    blocks = [re.match(r"net_s\.layers_up\.([0-3])\.blocks\.(\d+)\.", name) for name in entries]
    found = {(int(match[1]), int(match[2])) for match in blocks if match}
    values = {
        "variant": "released",
        "projection": projection,
        "encoder_weights": "timm",
        "depths": [max(1, sum(stage == wanted for stage, _ in found)) for wanted in range(4)],
    }
    stem, tokens, bias = (
        entries.get(name) for name in ("net_t.conv1.weight", FIRST_BLOCK + "learnable_q", FIRST_BLOCK + "pe2")
    )
    # What is missing or has a wrong shape keeps its default here and is named when the entries are compared.
    if stem is not None and stem.ndim == 4 and stem.shape[0] >= 8 and stem.shape[0] % 8 == 0:
        values["encoder_width"] = stem.shape[0]
    if tokens is not None and tokens.ndim == 3:
        values["tokens"] = tokens.shape[1]
    if bias is not None and bias.ndim == 4:
        values["heads"] = bias.shape[1]
    shapes = {
        (name.removeprefix("net_t."), value.shape) for name, value in entries.items() if name.startswith("net_t.")
    }
    values["encoder"] = min(ARCHITECTURES, key=lambda name: len(_encoder_shapes(name, values) ^ shapes))
    return validate(ModelSettings, values, where)


def _encoder_shapes(name: str, values: Mapping) -> set[tuple[str, torch.Size]]:
    with torch.device("meta"):
        encoder = Encoder(name, values.get("encoder_width", 64))
    return {(name, value.shape) for name, value in encoder.state_dict().items()}
