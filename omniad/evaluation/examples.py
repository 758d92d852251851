"""The few images of a class that are kept with their maps: for Figure 3, and to inspect a run's mistakes.

examples/<class>.npz: images (E, S, S, 3) uint8, masks (E, S, S) uint8, maps (E, S, S) float16, and for each example its
`kind`, `image` (path in the data set), `label` and `score`. Kinds:
- figure: the first image of each defect, at most FIGURES; the same for every run, so that runs can be compared and
  none is flattered;
- miss: the anomalous images with the lowest scores;
- false_alarm: the normal images with the highest scores.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from omniad.data.packs import Pack
from omniad.runs.artifacts import Example

FIGURES = 3
WORST = 3


def pick_examples(rows: pd.DataFrame, pack: Pack, maps: np.ndarray, scores: np.ndarray) -> list[Example]:
    """A class's examples. rows: its index rows; maps (N, S, S) and scores (N,) in their order."""
    members = rows.index.to_numpy()
    visible = np.any(pack.masks(members), axis=(1, 2))
    return [
        Example(
            kind=kind,
            name=rows["image"].iloc[position],
            label=int(rows["label"].iloc[position]),
            score=float(scores[position]),
            image=pack.images[members[position]],
            mask=pack.masks(members[position]).astype(np.uint8),
            map=maps[position],
        )
        for kind, positions in choose(rows, visible, scores).items()
        for position in positions
    ]


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
