"""How many epochs there are, and how the learning rate falls."""

from __future__ import annotations

from omniad.config import RunSettings, TrainingSettings
from omniad.models.checkpoint import METHODS


def epochs_of(run: RunSettings) -> int:
    """Epochs of a run's training; none of a method that is free of training, whatever its settings say."""
    return 0 if METHODS[run.model.method].training_free else run.training.epochs


def rate_factor(epoch: int, settings: TrainingSettings) -> float:
    """What an epoch (from 0) multiplies every optimizer's rate by: 1, then `decay_factor` after `decay_at` of them."""
    return settings.decay_factor if epoch >= settings.decay_at * settings.epochs else 1.0
