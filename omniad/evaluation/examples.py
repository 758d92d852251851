"""The few images of a class that are kept with their maps: for Figure 3, and to look at where a run is wrong.

examples/<class>.npz: images (E, S, S, 3) uint8, masks (E, S, S) uint8, maps (E, S, S) float16, and for each example its
`kind`, `image` (path in the data set), `label` and `score`. Kinds:
- figure: the first image of each defect, at most FIGURES; the same for every run, so that runs can be compared and
  none is flattered;
- miss: the anomalous images with the lowest scores;
- false_alarm: the normal images with the highest scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from omniad.data.packs import Pack
from omniad.files import atomic_write

FIGURES = 3
WORST = 3


def write_examples(path: Path, rows: pd.DataFrame, pack: Pack, maps: np.ndarray, scores: np.ndarray) -> None:
    """Write a class's examples. rows: its index rows; maps (N, S, S) and scores (N,) in their order."""
    members = rows.index.to_numpy()
    visible = np.any(pack.masks[members], axis=(1, 2))
    chosen = choose(rows, visible, scores)
    places = np.array([place for places in chosen.values() for place in places], np.int64)
    picked = rows.iloc[places]
    with atomic_write(path, "wb") as file:
        np.savez_compressed(
            file,
            images=pack.images[members[places]],
            masks=pack.masks[members[places]],
            maps=maps[places].astype(np.float16),
            kind=np.array([kind for kind, places in chosen.items() for _ in places], str),
            image=picked["image"].to_numpy(str),
            label=picked["label"].to_numpy(),
            score=scores[places],
        )


def choose(rows: pd.DataFrame, visible: np.ndarray, scores: np.ndarray) -> dict[str, list[int]]:
    """Positions within the class for each kind. visible (N,): whether any of the defect is left in the resized mask."""
    labels = rows["label"].to_numpy()
    defects = rows["defect"].to_numpy()
    first = {}
    for place in np.flatnonzero((labels > 0) & visible):
        first.setdefault(defects[place], int(place))
    by_score = np.argsort(scores, kind="stable")
    misses = [int(place) for place in by_score if labels[place] > 0]
    false_alarms = [int(place) for place in by_score[::-1] if labels[place] == 0]
    return {
        "figure": list(first.values())[:FIGURES],
        "miss": misses[:WORST],
        "false_alarm": false_alarms[:WORST],
    }
