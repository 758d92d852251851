"""Train one run: from its settings, its pack and a seed to a run folder.

The last epoch is the result. With one seed, one thread count and one CPU the result is the same bit for bit, however
often the training was killed in between; on a GPU, convolutions may differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from omniad.config import RunSettings
from omniad.data.packs import Pack, open_pack
from omniad.data.weights import name_hash, start_file, weights_file, weights_hash
from omniad.devices import is_out_of_memory, pick_device
from omniad.errors import UserError
from omniad.files import sha256_file, sweep
from omniad.locks import locked
from omniad.models import Method, build_model, save_model
from omniad.models.encoder import load_weights
from omniad.models.precision import arithmetic
from omniad.runs.artifacts import write_history
from omniad.runs.files import CONFIG, LOCK, MODEL, STATE
from omniad.runs.provenance import (
    commit,
    hardware,
    load_run_settings,
    peak_memory_mib,
    save_run_settings,
    versions,
    write_provenance,
)
from omniad.runs.weights import remove_measured, remove_trained
from omniad.training import TRAINING_VERSION
from omniad.training.cost import refuse_plain_scan
from omniad.training.loop import Training
from omniad.training.memory import shortage
from omniad.training.signals import stop_signals
from omniad.training.state import StateFolder, fingerprint


def train(
    settings: RunSettings,
    seed: int,
    out: Path,
    device: torch.device | None = None,
    force: bool = False,
    pack: Pack | None = None,
) -> None:
    """Train one run and write its folder: config.yaml, model.safetensors, history.csv, provenance.json.

    Resumes from `out/state` if it belongs to the same training; a finished one's files are written again from it. What
    an earlier training left there, its metrics included, is removed before the first step.

    Args:
        settings: the resolved run; its pack must exist (`omniad pack`).
        seed: of the weights, the order of the images and the jitter.
        out: the run folder, locked meanwhile.
        pack: the run's pack, if it is already open.
        force: train MambaAD even where its scan takes days (see `cost.refuse_plain_scan`).

    Raises:
        UserError: the seed is negative, pack or weights are missing, another process trains there, the loss is not
            finite, memory runs out, the folder cannot be written, MambaAD's scan would take days.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"a seed must be between 0 and 2^63 - 1, not {seed}")
    clock, device = time.monotonic(), device or pick_device()
    pack = pack or open_pack(settings.pack_folder)
    if not force:
        refuse_plain_scan(settings, pack.index["split"].tolist().count("train"), device)
    torch.manual_seed(seed)
    model, weights = _prepare_model(settings, seed, device)
    exact = arithmetic("fp32", device)  # but for the steps themselves
    with stop_signals() as stop, locked(out, out / LOCK), _out_of_memory(settings, device), exact:
        state = StateFolder(out / STATE, fingerprint(settings, seed, pack.digest, weights.get("sha256", "")))
        training = Training(model, settings, pack, seed, device, state, stop)
        if not training.is_finished:
            remove_trained(out)  # of earlier weights; before the settings are written, so that nothing is between two
        elif _evaluated_otherwise(settings, out):
            remove_measured(out)
        sweep(out)
        save_run_settings(settings, out)
        training.position.wall_s += time.monotonic() - clock
        training.run()
        write_history(out, training.position.history)
        save_model(model, settings.model, out / MODEL)
        write_provenance(
            out,
            commit=commit(),
            training_version=TRAINING_VERSION,
            versions=versions(),
            hardware=hardware(device),
            seed=seed,
            weights=weights,
            data={"dataset": settings.dataset, "sha256": pack.digest, "images": len(pack.index)},
            config_sha256=sha256_file(out / CONFIG),
            model_sha256=sha256_file(out / MODEL),
            training=training.costs() | {"peak_memory_mib": peak_memory_mib(device)},
        )


def _prepare_model(settings: RunSettings, seed: int, device: torch.device) -> tuple[Method, dict[str, str]]:
    """A fresh model with the weights that it starts from, and what is to be recorded about those."""
    model = build_model(settings.model)
    model.seed_draws(seed)
    weights = {"kind": settings.model.encoder_weights}
    file = weights_file(settings.model, settings.data)
    if file is not None:
        load_weights(model.encoder, file)
        weights |= {"file": file.name, "sha256": weights_hash(file)}
    start = start_file(settings.model, settings.data)
    if start is not None:
        model.load_start(start)
        weights |= {"start_file": start.name, "start_sha256": name_hash(start.name)}
    return model.to(device), weights


def _evaluated_otherwise(settings: RunSettings, out: Path) -> bool:
    """Whether what was measured in a finished run's folder is not what the settings would give, as far as it tells."""
    try:
        return load_run_settings(out).numbers()["evaluation"] != settings.numbers()["evaluation"]
    except UserError:  # it is gone, as in the workflow, which also removes what was measured; or another version's
        return (out / CONFIG).exists()


@contextmanager
def _out_of_memory(settings: RunSettings, device: torch.device) -> Iterator[None]:
    """Say in one line what to do when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(shortage(settings, device)) from error
