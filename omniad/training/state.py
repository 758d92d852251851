"""What a training needs to resume after a kill: `<run folder>/state/`, which no rule of the workflow declares.

`latest.pt` is the last state, `previous.pt` the one before it, for the case that the last is damaged. Each is written
under a temporary name, flushed to disk and renamed, so that a kill at any moment leaves at least one whole state.
Reading one runs no code from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniad.config import RunSettings
from omniad.devices import is_out_of_memory
from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write, reading
from omniad.models import Method
from omniad.training import TRAINING_VERSION

LATEST, PREVIOUS = "latest.pt", "previous.pt"
log = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a training is, and what it has recorded so far."""

    epoch: int = 0  # whole epochs that are done
    step: int = 0  # steps that are done of the open epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # a row of history.csv per whole epoch
    losses: list[Tensor] = field(default_factory=list)  # of the open epoch's steps
    norms: list[Tensor] = field(default_factory=list)  # of their gradients
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # rows of epochs.csv
    prepared: bool = False  # `Method.prepare` is done
    kept: Mapping[str, Tensor] = field(default_factory=dict)  # what it would resume from
    started: str = ""
    seconds: float = 0.0  # spent in the open epoch
    wall_s: float = 0.0  # of all processes that worked on this training; so are the next three
    preparing_s: float = 0.0
    saving_s: float = 0.0
    waiting_s: float = 0.0
    energy_j: float = 0.0  # of the GPU, where it has a counter
    resumes: int = 0


def fingerprint(settings: RunSettings, seed: int, data_sha256: str, weights_sha256: str) -> dict[str, str]:
    """Everything that a training's numbers depend on, except machine and library versions, by key."""
    numbers = settings.numbers()
    keys = {f"{group}.{key}": value for group in ("model", "training") for key, value in numbers[group].items()}
    keys |= {"data.image_size": settings.data.image_size, "data.sha256": data_sha256, "seed": seed}
    keys |= {"weights.sha256": weights_sha256, "training_version": TRAINING_VERSION}
    return {key: json.dumps(value) for key, value in keys.items()}


class StateFolder:
    """The folder of one training's states; the caller holds the run folder's lock."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str]):
        self.folder, self.fingerprint = folder, dict(fingerprint)

    def load(self, check: Callable[[Mapping[str, Any]], None] = lambda state: None) -> dict[str, Any] | None:
        """The last complete state of this training; None if there is none. `check` raises ValueError.

        Damaged files are reported and skipped. A state of another training is moved aside, under its hash, and the
        first key that differs is reported.
        """
        for leftover in self.folder.glob(f".{LATEST}.*"):  # of a process that was killed while it saved
            leftover.unlink(missing_ok=True)
        for name in (LATEST, PREVIOUS):
            state = _read(self.folder / name, self.fingerprint, check)
            if state is not None:
                return state if state["fingerprint"] == self.fingerprint else self._move_aside(state["fingerprint"])
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Make this the last state and keep the one before it.

        Raises:
            UserError: the folder cannot be written.
        """
        latest = self.folder / LATEST
        with atomic_write(latest, "wb") as file:
            try:
                torch.save({"fingerprint": self.fingerprint, **state}, file)
            except RuntimeError as error:  # what torch makes of a write that failed: no word of a full disk is in it
                if is_out_of_memory(error):
                    raise
                raise OSError(errno.ENOSPC, "the disk is full or no longer writable") from error
            file.flush()
            os.fsync(file.fileno())
            if latest.exists():  # only now, when the new one is complete
                latest.replace(self.folder / PREVIOUS)

    def forget_previous(self) -> None:
        (self.folder / PREVIOUS).unlink(missing_ok=True)

    def _move_aside(self, other: Mapping[str, str]) -> None:
        digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:12]
        aside = self.folder.with_name(f"{self.folder.name}-{digest}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self.folder.rename(aside)
        except OSError as error:
            raise cannot_write(aside, error) from None
        keys = [key for key in {**other, **self.fingerprint} if other.get(key) != self.fingerprint.get(key)]
        was, now = (entries.get(keys[0], "not set") for entries in (other, self.fingerprint))
        rest = f" (and {len(keys) - 1} more)" if keys[1:] else ""
        log.info(
            "%s belongs to another training: %s was %s, now %s%s; moving it to %s and starting over",
            self.folder, keys[0][:80], was[:80], now[:80], rest, aside.name,
        )  # fmt: skip


def capture(
    model: Method, optimizers: list[torch.optim.Optimizer], position: Position, device: torch.device
) -> dict[str, Any]:
    """A training's state, without the frozen encoder."""
    return {
        "model": {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "generator": model.generator.get_state(),
        "position": {each.name: getattr(position, each.name) for each in fields(Position)},
    }


def restore(
    state: Mapping[str, Any], model: Method, optimizers: list[torch.optim.Optimizer], device: torch.device
) -> Position:
    """Put a captured state back; a finished training's has no optimizers."""
    model.load_state_dict(state["model"], strict=False)
    for optimizer, entries in zip(optimizers, state["optimizers"], strict=False):
        optimizer.load_state_dict(entries)
    torch.set_rng_state(state["rng"])
    if state["rng_cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"], device)
    model.generator.set_state(state["generator"])
    position = Position(**state["position"])
    position.losses = [loss.to(device) for loss in position.losses]
    position.norms = [norm.to(device) for norm in position.norms]
    return position


def check_state(state: Mapping[str, Any], model: Method) -> None:
    """Compare a captured state with what `restore` puts it into, which is then never left half done.

    Raises:
        ValueError: it lacks something, or its weights or generators are of other kinds.
    """
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    found = state["model"]
    if found.keys() != expected.keys() or any(found[name].shape != value.shape for name, value in expected.items()):
        raise ValueError("its weights belong to another model")
    for name, now in (("rng", torch.get_rng_state()), ("generator", model.generator.get_state())):
        if state[name].dtype != now.dtype or state[name].shape != now.shape:
            raise ValueError(f"'{name}' is not the state of a random generator")
    on_gpu = state["rng_cuda"]
    if not isinstance(state["optimizers"], list) or not (on_gpu is None or torch.is_tensor(on_gpu)):
        raise ValueError("optimizers or generators are missing")
    position, fresh = Position(**state["position"]), Position()
    for each in fields(Position):
        kind = type(getattr(fresh, each.name))
        if not isinstance(getattr(position, each.name), (int, float) if kind is float else kind):
            raise ValueError(f"'{each.name}' has the wrong type")
    if position.epoch < 0 or position.step < 0 or not all(map(torch.is_tensor, [*position.losses, *position.norms])):
        raise ValueError("its position is not one of a training")


def _read(
    file: Path, fingerprint: Mapping[str, str], check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any] | None:
    """A state file's content; None if it is missing, or damaged (reported in one line).

    A state of another training need have nothing but its fingerprint.
    """
    try:
        with reading(file, "damaged"):
            if not file.exists():
                return None
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()  # compares every entry's checksum
            if damaged:
                raise zipfile.BadZipFile(f"checksum of {damaged}")
            state = torch.load(file, map_location="cpu", weights_only=True)
            if not all(isinstance(text, str) for item in state["fingerprint"].items() for text in item):
                raise ValueError("no fingerprint of a training")
            if state["fingerprint"] == fingerprint:
                check(state)
            return state
    except UserError as error:
        log.warning("%s; using the state before it", error)
        return None
