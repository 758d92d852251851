"""Best and second best of a column, as the paper marks them; equal numbers share a mark."""

from __future__ import annotations

import math
from collections.abc import Sequence

BEST, SECOND = "best", "second"


def rank_marks(values: Sequence[float | None]) -> list[str]:
    """For each value of a column BEST, SECOND or nothing; values at the precision in which they are shown.

    None and NaN never get a mark. A single number is compared with nothing and gets none either.
    """
    there = [value for value in values if value is not None and not math.isnan(value)]
    ranks = sorted(set(there), reverse=True)
    if len(there) < 2:
        return [""] * len(values)
    marks = dict(zip(ranks, (BEST, SECOND), strict=False))
    return ["" if value is None else marks.get(value, "") for value in values]
