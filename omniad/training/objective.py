"""What training minimises, and the optimizer that does it."""

from __future__ import annotations

import torch
from torch import nn

from omniad.config import TrainingSettings


def reconstruction_loss(
    features: list[torch.Tensor], reconstructions: list[torch.Tensor], kind: str = "mean"
) -> torch.Tensor:
    """Squared error between features and reconstructions, summed over the scales.

    Args:
        features, reconstructions: per scale (B, C_k, H_k, W_k).
        kind: "mean" divides by C_k H_k W_k (the released code); "eq6" by H_k W_k alone, as equation 6 is printed.
            Both are means over the batch.
    """
    total = features[0].new_zeros(())
    for target, output in zip(features, reconstructions, strict=True):
        scale = target.shape[1] if kind == "eq6" else 1
        total = total + scale * nn.functional.mse_loss(output, target)
    return total


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW on the trainable parameters; no weight decay on biases and other 1-D parameters (as released)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def learning_rate(epoch: int, settings: TrainingSettings) -> float:
    """The rate of an epoch (from 0): constant, then `decay_factor` times that after `decay_at` of the epochs."""
    decayed = epoch >= settings.decay_at * settings.epochs
    return settings.learning_rate * (settings.decay_factor if decayed else 1.0)
