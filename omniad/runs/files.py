"""A run folder's files: every name and every table's columns, once. Writers and readers are in this package, too.

`results/runs/<dataset>/<run>/seed<n>/` holds, after

- training: `config.yaml` (the resolved settings), `model.safetensors`, `history.csv`, `provenance.json`; `epochs.csv`
  where `training.evaluate_every` asks for it; `state/`, from which a killed training resumes;
- evaluation: `metrics.csv`, `scores.csv`, `curves.npz`, `examples/<class>.npz`; `maps/<class>.npy` on request;
  of a run on tiles also `metrics_full_size.csv`, the same measured at the images' own size;
- `omniad fit`: `threshold.json`, and `prepared/`, the images at the run's resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CONFIG = "config.yaml"
MODEL = "model.safetensors"
HISTORY = "history.csv"
EPOCHS = "epochs.csv"
PROVENANCE = "provenance.json"
METRICS = "metrics.csv"
METRICS_FULL_SIZE = "metrics_full_size.csv"
SCORES = "scores.csv"
CURVES = "curves.npz"
EXAMPLES = "examples"
MAPS = "maps"
THRESHOLD = "threshold.json"
PREPARED = "prepared"
STATE = "state"
PROGRESS = f"{STATE}/progress.json"
LOCK = ".lock"

HISTORY_COLUMNS = ("epoch", "loss", "learning_rate", "gradient_norm", "seconds")
EPOCHS_COLUMNS = ("epoch", "metric", "definition", "value")
METRICS_COLUMNS = ("class", "metric", "definition", "value", "reason", "spread")
SCORES_COLUMNS = ("image", "class", "label", "score")


class RunName(NamedTuple):
    """Which run a folder holds."""

    dataset: str
    run: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.run}/seed{self.seed}"

    def folder(self, results: str | Path) -> Path:
        """Where the run lies in a results folder."""
        return Path(results, "runs", str(self))


def run_name(folder: Path) -> RunName | None:
    """The run that a path's last three parts name; None when they name none."""
    parts = folder.parts[-3:]
    seed = parts[-1].removeprefix("seed") if parts else ""
    if len(parts) < 3 or parts[-1] == seed or not seed.isdecimal():
        return None
    return RunName(parts[0], parts[1], int(seed))
