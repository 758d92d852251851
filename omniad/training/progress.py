"""A training's progress: a bar or lines for people, `state/progress.json` for other programs."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path

from tqdm import tqdm

from omniad.files import atomic_write
from omniad.training.state import Position
from omniad.wording import duration

WRITE_EVERY_S = 10.0
log = logging.getLogger(__name__)


class Progress:
    """Reports how far a training is.

    progress.json: epoch (whole ones done), epochs, step (of all epochs), steps, loss (of the last whole epoch, else of
    the last step), seconds_per_epoch, left_s (about), prepared (share of what `Method.prepare` does; null where it does
    nothing), host, pid, started, updated (UTC, ISO 8601).
    """

    def __init__(self, file: Path, title: str, epochs: int, steps_per_epoch: int, position: Position):
        self.file, self.title, self.epochs, self.steps_per_epoch = file, title, epochs, steps_per_epoch
        self.position = position
        done = position.epoch * steps_per_epoch + position.step
        self.bar = tqdm(
            total=epochs * steps_per_epoch, initial=done, desc=title, unit="step", disable=not sys.stderr.isatty()
        )
        self._first, self._since = done, time.monotonic()
        self._prepared: float | None = None
        self._written = 0.0

    def due(self) -> bool:
        return time.monotonic() - self._written >= WRITE_EVERY_S

    def preparing(self, share: float) -> None:
        """How much of `Method.prepare` is done; steps are timed from here on."""
        self._prepared, self._since = share, time.monotonic()
        self.bar.set_postfix(prepared=f"{share:.0%}")

    def write(self) -> None:
        self._written = time.monotonic()
        position = self.position
        done, total = position.epoch * self.steps_per_epoch + position.step, self.epochs * self.steps_per_epoch
        history, losses = position.history, position.losses
        seconds = self._seconds_per_step(done)
        facts = {
            "epoch": position.epoch,
            "epochs": self.epochs,
            "step": done,
            "steps": total,
            "loss": history[-1]["loss"] if history else losses[-1].item() if losses else None,
            "seconds_per_epoch": seconds and round(seconds * self.steps_per_epoch, 3),
            "left_s": seconds and round(seconds * (total - done), 1),
            "prepared": self._prepared and round(self._prepared, 4),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": position.started,
            "updated": now(),
        }
        with atomic_write(self.file) as file:
            json.dump(facts, file, indent=2)
            file.write("\n")

    def epoch_done(self) -> None:
        """A plain line after the first, every tenth part and the last epoch: for logs, where a bar is noise."""
        row, epoch = self.position.history[-1], self.position.epoch
        self.bar.set_postfix(loss=f"{row['loss']:.4f}")
        if self.bar.disable and (epoch in (1, self.epochs) or epoch % max(1, self.epochs // 10) == 0):
            left = duration(row["seconds"] * (self.epochs - epoch))
            log.info(
                "%s: epoch %d of %d, loss %.4f, %.1f s an epoch, about %s left",
                self.title,
                epoch,
                self.epochs,
                row["loss"],
                row["seconds"],
                left,
            )

    def _seconds_per_step(self, done: int) -> float | None:
        """Of this process; before its first step, of the last whole epoch; None when nothing is known."""
        if done > self._first:
            return (time.monotonic() - self._since) / (done - self._first)
        history = self.position.history
        return history[-1]["seconds"] / self.steps_per_epoch if history else None


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
