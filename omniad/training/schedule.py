"""How the learning rate falls."""

from __future__ import annotations

from omniad.config import TrainingSettings


def rate_factor(epoch: int, settings: TrainingSettings) -> float:
    """What an epoch (from 0) multiplies every optimizer's rate by: 1, then `decay_factor` after `decay_at` of them."""
    return settings.decay_factor if epoch >= settings.decay_at * settings.epochs else 1.0
