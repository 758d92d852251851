"""The training loop: epochs and steps from where the state left off, with saves, records and a clean stop."""

from __future__ import annotations

import functools
import logging
import math
import time
from typing import Any

import torch

from omniad.config import RunSettings, TrainingSettings
from omniad.data.packs import Pack
from omniad.energy import EnergyMeter
from omniad.errors import UserError
from omniad.models import Method
from omniad.models.checkpoint import epochs_of
from omniad.models.precision import arithmetic
from omniad.runs.artifacts import write_epochs
from omniad.runs.files import PROGRESS
from omniad.training.compiling import compile_blocks
from omniad.training.cuda_graph import GraphedStep, Step
from omniad.training.features import TrainingFeatures
from omniad.training.memory import training_memory
from omniad.training.progress import Progress, now
from omniad.training.signals import Stop
from omniad.training.state import Position, StateFolder, capture, check_state, restore

SAVING_SHARE = 0.02  # a save that takes long is repeated less often, so that all take no more than this of the time
log = logging.getLogger(__name__)


class Training:
    """The steps of one training, from where its state left off."""

    def __init__(
        self,
        model: Method,
        settings: RunSettings,
        pack: Pack,
        seed: int,
        device: torch.device,
        state: StateFolder,
        stop: Stop,
    ):
        self.model, self.settings, self.pack, self.seed, self.device = model, settings, pack, seed, device
        self.state, self.stop = state, stop
        self.epochs = epochs_of(settings)
        self.title = f"{settings.dataset}/{settings.run} seed {seed}"
        self.optimizers = model.make_optimizers(settings.training)
        self.first_rates = [group["lr"] for group in self._groups()]
        self.position = self._resume()
        training = settings.training
        wanted = training_memory(settings) if device.type == "cuda" else None
        self.features = TrainingFeatures(
            *(model, pack, training.batch_size, training.cache_gib, device),
            draw=functools.partial(model.draw, training),
            constant_from=math.ceil(model.features_settle_at(training) * self.epochs),
            wanted=wanted.still_wanted if wanted else None,
        )
        self.steps_per_epoch = self.features.steps_per_epoch
        if settings.training.compile:
            compile_blocks(model, device)
        self._step = make_step(model, self.optimizers, settings.training, device)
        progress_file = state.folder.parent / PROGRESS
        self.progress = Progress(progress_file, self.title, self.epochs, self.steps_per_epoch, self.position)
        self._clock = self._saved = time.monotonic()  # of the last look, and of the last save
        self._meter = EnergyMeter(device)
        self._save_s = 0.0  # that the last save took

    def run(self) -> None:
        """Preparation and every epoch that is left, then a last state without what only further steps would need."""
        self.stop.deferred = True
        self.model.train()
        self.progress.write()
        with self.progress.bar:
            self._prepare()
            while self.position.epoch < self.epochs:
                self._record_test_metrics()
                self._epoch()
        self._record_test_metrics()
        self.optimizers = []
        self._save()
        self.state.forget_previous()
        self.progress.write()

    def costs(self) -> dict[str, Any]:
        """The training's time and energy for provenance.json, all resumed parts together."""
        position = self.position
        keys = ("wall_s", "saving_s", "waiting_s", *(("preparing_s",) if position.preparing_s else ()))
        keys += ("energy_j",) if self._meter.counts else ()
        measured = {key: round(getattr(position, key), 2) for key in keys}
        return {"started": position.started, "resumes": position.resumes, **measured}

    def _resume(self) -> Position:
        state = self.state.load(lambda found: check_state(found, self.model))
        if state is None:
            return Position(started=now())
        position = restore(state, self.model, self.optimizers, self.device)
        if self._is_last(position):
            log.info("%s: already trained; its files are written again from %s", self.title, self.state.folder)
        else:
            position.resumes += 1
            log.info("%s: resuming after epoch %d, step %d", self.title, position.epoch, position.step)
        return position

    @property
    def is_finished(self) -> bool:
        """Whether no step is left, so that the weights are those that were saved."""
        return self._is_last(self.position)

    def _is_last(self, position: Position) -> bool:
        return position.prepared and position.epoch == self.epochs

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _prepare(self) -> None:
        """What the method computes from all training features before its first step (see `Method.prepare`)."""
        position, worked = self.position, False
        if position.prepared:
            return
        with torch.no_grad():
            for share, kept in self.model.prepare(self.features.all(), position.kept):
                position.kept, worked = kept, True
                self.progress.preparing(share)
                self._between_steps(save=bool(kept))
        position.prepared, position.kept = True, {}
        if worked:
            self._measure_time()
            position.preparing_s, position.seconds = position.seconds, 0.0
            log.info("%s: prepared in %.1f s", self.title, position.preparing_s)
            self._save()

    def _epoch(self) -> None:
        """The steps that are left of the open epoch."""
        position, training = self.position, self.settings.training
        batches = self.features.epoch(self.seed, position.epoch, position.step)
        while position.step < self.steps_per_epoch:
            start = time.monotonic()
            batch = next(batches)
            position.waiting_s += time.monotonic() - start
            steps_done = position.epoch * self.steps_per_epoch + position.step
            share_done = steps_done / (training.epochs * self.steps_per_epoch)
            self._set_rates(rate_factor(position.epoch, training) * self.model.rate_factor(share_done))
            with arithmetic(training.precision, self.device):
                loss, norm = self._step(batch, share_done)
            position.losses.append(loss)
            position.norms.append(norm)
            position.step += 1
            self.progress.bar.update()
            if position.step == self.steps_per_epoch:
                self._close_epoch()
            self._between_steps()
            if not position.step:
                return

    def _set_rates(self, factor: float) -> None:
        for group, first_rate in zip(self._groups(), self.first_rates, strict=True):
            group["lr"] = first_rate * factor

    def _close_epoch(self) -> None:
        position = self.position
        self._check_finite()
        self._measure_time()
        position.history.append(
            {
                "epoch": position.epoch + 1,
                "loss": torch.stack(position.losses).mean().item(),
                "learning_rate": self._groups()[0]["lr"],
                "gradient_norm": torch.stack(position.norms).mean().item(),
                "seconds": round(position.seconds, 3),
            }
        )
        position.epoch, position.step, position.seconds = position.epoch + 1, 0, 0.0
        position.losses.clear()
        position.norms.clear()
        self.progress.epoch_done()

    def _between_steps(self, save: bool = True) -> None:
        """Do whatever is due: save, stop, or check the losses (they stay on the device, so that no step waits)."""
        every = self.settings.training.save_every_s
        due = time.monotonic() - self._saved >= (every and max(every, self._save_s / SAVING_SHARE))
        if save and (self.stop.signal or due):
            self._save()
        if self.progress.due():
            self._check_finite()
            self.progress.write()
        if self.stop.signal:
            self.progress.bar.close()
            self.progress.write()
            self.stop.leave()

    def _save(self) -> None:
        self._check_finite()
        self._measure_time()
        start = time.monotonic()
        self.state.save(capture(self.model, self.optimizers, self.position, self.device))
        self._saved = time.monotonic()
        self._save_s = self._saved - start
        self.position.saving_s += self._save_s

    def _measure_time(self) -> None:
        """Add the time since the last look to the open epoch's and to the whole's."""
        clock = time.monotonic()
        self.position.seconds += clock - self._clock
        self.position.wall_s += clock - self._clock
        self.position.energy_j += self._meter.joules()
        self._clock = clock

    def _check_finite(self) -> None:
        """Raise a UserError that names the first step of the open epoch whose loss or gradient is not finite."""
        position = self.position
        if not position.losses:
            return
        finite = torch.isfinite(torch.stack(position.losses)) & torch.isfinite(torch.stack(position.norms))
        if finite.all():
            return
        step = int(finite.int().argmin())  # the first
        images = ", ".join(self.features.images(self.seed, position.epoch, step))
        raise UserError(
            f"{self.title}: the loss is not finite in epoch {position.epoch + 1}, step {step + 1} of "
            f"{self.steps_per_epoch}; lower training.learning_rate. The last good state is in {self.state.folder}. "
            f"The batch: {images}"
        )

    def _record_test_metrics(self) -> None:
        """Append a due record to epochs.csv (see epoch_metrics.py); the file is rewritten from the state."""
        every, position = self.settings.training.evaluate_every, self.position
        recorded = {row["epoch"] for row in position.evaluations}
        if not every or not position.epoch or position.epoch % every or position.epoch in recorded:
            return
        from omniad.training.epoch_metrics import epoch_metrics  # evaluation is imported only where it is wanted

        position.evaluations += epoch_metrics(self.model, self.settings, self.pack, self.device, position.epoch)
        write_epochs(self.state.folder.parent, position.evaluations)


def make_step(
    model: Method, optimizers: list[torch.optim.Optimizer], training: TrainingSettings, device: torch.device
) -> Step:
    """What makes one update from a batch and the share of steps done: `train_step`, recorded if that is asked for."""

    def step(batch: list[torch.Tensor], progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        return train_step(model, batch, optimizers, training, progress)

    if not training.cuda_graph or device.type != "cuda":
        return step
    if not model.same_every_step:
        log.warning(
            "training.cuda_graph: the steps of %s differ from each other; training without a graph",
            model.settings.method,
        )
        return step
    return GraphedStep(model, step, optimizers)


def train_step(
    model: Method,
    batch: list[torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    training: TrainingSettings,
    progress: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of what is trained; the loss and the gradient's norm stay on the device, so that nothing waits."""
    loss = model.loss(batch, training, progress)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainable = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trainable, training.clip_norm or math.inf)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach(), norm.detach()


def rate_factor(epoch: int, settings: TrainingSettings) -> float:
    """What an epoch (from 0) multiplies every optimizer's rate by: 1, then `decay_factor` after `decay_at` of them."""
    return settings.decay_factor if epoch >= settings.decay_at * settings.epochs else 1.0
