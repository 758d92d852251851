"""`training.evaluate_every`: the test metrics by epoch, in epochs.csv (epoch, metric, definition, value).

For information only: the last epoch is the result, and these numbers do not influence training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from omniad.config import RunSettings
from omniad.data.packs import PUBLISHED, Pack
from omniad.evaluation.batches import Batches
from omniad.evaluation.evaluate import compute_maps
from omniad.metrics.definitions import DEFINITIONS, METRICS
from omniad.metrics.from_maps import evaluate_class
from omniad.models import Method


def epoch_metrics(
    model: Method, settings: RunSettings, pack: Pack, device: torch.device, epoch: int
) -> list[dict[str, Any]]:
    """The means over classes after `epoch` epochs, fractions; as `omniad evaluate` computes them (its first draw).

    None where there are no test images.
    """
    test = pack.index.loc[pack.index["split"] == "test"]
    if test.empty:
        return []
    results, batches = [], Batches(settings.evaluation.batch_size, device)
    with _undisturbed(model, device):
        for _, rows in test.groupby("class"):
            members = rows.index.to_numpy()
            model.seed_draws(0)
            maps, scores = compute_maps(model, pack.images, members, settings, batches)
            masks, published = pack.masks(members), pack.masks(members, PUBLISHED)
            labels, names = rows["label"].to_numpy(), rows["image"].tolist()
            results.append(evaluate_class(maps, masks, labels, published, scores=scores, names=names, curves=False))
    return [
        {"epoch": epoch, "metric": metric, "definition": definition, "value": float(np.mean(values))}
        for definition in DEFINITIONS
        for metric in METRICS
        for values in [[result.metrics[definition].fractions[metric] for result in results]]
    ]


@contextmanager
def _undisturbed(model: Method, device: torch.device) -> Iterator[None]:
    """Eval mode in this block; afterwards training mode again and every random generator as it was."""
    drawn = model.generator.get_state()
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        model.train()
        model.generator.set_state(drawn)
