"""The files of a run folder that depend on its weights: removed before others are trained, never shown beside others.

`evaluate` records the sha256 of the weights it measured (`evaluation.model_sha256` in provenance.json), `fit` that of
those its threshold belongs to (in threshold.json).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniad.errors import UserError
from omniad.files import cannot_write, sha256_file
from omniad.runs.files import (
    CURVES,
    EPOCHS,
    EXAMPLES,
    HISTORY,
    MAPS,
    METRICS,
    METRICS_FULL_SIZE,
    MODEL,
    PROVENANCE,
    SCORES,
    THRESHOLD,
)

# Metrics first: they say that all of the others are there.
MEASURED = (METRICS, METRICS_FULL_SIZE, SCORES, CURVES, EXAMPLES, MAPS)
TRAINED = (*MEASURED, THRESHOLD, MODEL, HISTORY, EPOCHS, PROVENANCE)


def remove_trained(run_dir: Path) -> None:
    """Before a training starts: remove the weights of an earlier one and all that was recorded of them."""
    _remove(run_dir, TRAINED)


def remove_measured(run_dir: Path) -> None:
    """Before other weights are measured: remove what was measured of earlier ones."""
    _remove(run_dir, MEASURED)


def measured_others(run_dir: Path, facts: Mapping[str, Any], thorough: bool = False) -> str:
    """Why a run's metrics are not of its weights; "" when they are, or nobody recorded it (an older version).

    Args:
        facts: its provenance.
        thorough: hash the weights that are there, which takes a second a gigabyte. Otherwise that is done only where
            they are younger than the metrics, and else the record of the training is believed.
    """
    evaluation = facts.get("evaluation")
    measured = evaluation.get("model_sha256") if isinstance(evaluation, Mapping) else None
    model, metrics = run_dir / MODEL, run_dir / METRICS
    there = facts.get("model_sha256")
    try:
        if model.is_file() and (thorough or model.stat().st_mtime > metrics.stat().st_mtime):
            there = sha256_file(model)
    except OSError as error:
        raise UserError(f"{model}: can't be read: {error.strerror or error}") from None
    if not measured or not there or measured == there:
        return ""
    return f"{metrics}: measured with other weights than {MODEL}; evaluate the run again"


def _remove(run_dir: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = run_dir / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from None
