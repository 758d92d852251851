"""One training: a frozen encoder, and a neck and decoder that learn to reconstruct its features of normal images.

The last epoch is the result. With one seed, one thread count and one CPU the result is the same bit for bit; a GPU's
convolutions are not promised to be.
"""

from __future__ import annotations

import csv
import datetime
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from omniad.config import RunSettings, to_yaml
from omniad.data.packs import Pack, open_pack
from omniad.data.weights import weights_file
from omniad.devices import pick_device
from omniad.errors import UserError
from omniad.files import atomic_write, sha256_file
from omniad.models import Method, build_model, save_model
from omniad.models.encoder import load_weights
from omniad.provenance import commit, hardware, peak_memory_mib, versions, write_provenance
from omniad.training import TRAINING_VERSION
from omniad.training.features import TrainingFeatures
from omniad.training.schedule import rate_factor

log = logging.getLogger(__name__)


def train(settings: RunSettings, seed: int, out: Path, device: torch.device | None = None) -> None:
    """Train one run and write its folder: config.yaml, model.safetensors, history.csv, provenance.json.

    Args:
        settings: the resolved run; its pack must exist (`omniad pack`).
        seed: of the weights, the order of the images and the jitter.
        out: the run folder.

    Raises:
        UserError: pack or weights are missing, the loss is not finite, the folder cannot be written.
    """
    device = device or pick_device()
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    pack = open_pack(settings.pack_folder)
    torch.manual_seed(seed)
    model, weights = _prepare_model(settings, seed, device)
    with atomic_write(out / "config.yaml") as file:
        file.write(to_yaml(settings))
    history = _run_epochs(model, settings, pack, seed, device)
    _write_history(out / "history.csv", history)
    save_model(model, settings.model, out / "model.safetensors")
    write_provenance(
        out,
        commit=commit(),
        training_version=TRAINING_VERSION,
        versions=versions(),
        hardware=hardware(device),
        seed=seed,
        weights=weights,
        data={"dataset": settings.dataset, "sha256": pack.digest, "images": len(pack.index)},
        config_sha256=sha256_file(out / "config.yaml"),
        model_sha256=sha256_file(out / "model.safetensors"),
        training={
            "started": started.isoformat(timespec="seconds"),
            "wall_s": round(time.perf_counter() - clock, 2),
            "peak_memory_mib": peak_memory_mib(device),
        },
    )


def _prepare_model(settings: RunSettings, seed: int, device: torch.device) -> tuple[Method, dict[str, str]]:
    """A fresh model with its encoder's weights, and what is to be recorded about those."""
    model = build_model(settings.model)
    model.seed_draws(seed)
    weights = {"kind": settings.model.encoder_weights}
    file = weights_file(settings.model, settings.data)
    if file is not None:
        load_weights(model.encoder, file)
        weights |= {"file": file.name, "sha256": sha256_file(file)}
    return model.to(device), weights


def _run_epochs(
    model: Method, settings: RunSettings, pack: Pack, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    training = settings.training
    features = TrainingFeatures(model, pack, training.batch_size, training.cache_gib, device)
    optimizers = model.make_optimizers(training)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    first_rates = [group["lr"] for group in groups]
    history: list[dict[str, Any]] = []
    model.train()
    title = f"{settings.dataset}/{settings.run} seed {seed}"
    steps = training.epochs * features.steps_per_epoch
    with tqdm(total=steps, desc=title, unit="step", disable=not sys.stderr.isatty()) as bar:
        for epoch in range(training.epochs):
            clock = time.perf_counter()
            for group, first_rate in zip(groups, first_rates, strict=True):
                group["lr"] = first_rate * rate_factor(epoch, training)
            losses, norms = [], []
            for step, batch in enumerate(features.epoch(seed, epoch), start=epoch * features.steps_per_epoch):
                loss, norm = _step(model, batch, optimizers, settings, step / steps)
                losses.append(loss)
                norms.append(norm)
                bar.update()
            mean_loss = torch.stack(losses).mean().item()
            if not math.isfinite(mean_loss):
                raise UserError(f"{title}: the loss is not finite in epoch {epoch + 1}; lower training.learning_rate")
            seconds = time.perf_counter() - clock
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": mean_loss,
                    "learning_rate": groups[0]["lr"],
                    "gradient_norm": torch.stack(norms).mean().item(),
                    "seconds": round(seconds, 3),
                }
            )
            bar.set_postfix(loss=f"{mean_loss:.4f}")
            if bar.disable:
                _log_epoch(title, epoch, training.epochs, mean_loss, seconds)
    return history


def _step(
    model: Method,
    batch: list[torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    settings: RunSettings,
    progress: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of what is trained; the loss and the gradient's norm stay on the device, so that nothing waits."""
    loss = model.loss(batch, settings.training, progress)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainable = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trainable, settings.training.clip_norm or math.inf)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach(), norm.detach()


def _log_epoch(title: str, epoch: int, epochs: int, loss: float, seconds: float) -> None:
    """A plain line after the first, every tenth part and the last epoch: for logs, where a bar is noise."""
    if epoch == 0 or epoch + 1 == epochs or (epoch + 1) % max(1, epochs // 10) == 0:
        left = datetime.timedelta(seconds=round(seconds * (epochs - epoch - 1)))
        log.info(
            "%s: epoch %d of %d, loss %.4f, %.1f s an epoch, about %s left",
            title,
            epoch + 1,
            epochs,
            loss,
            seconds,
            left,
        )


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
