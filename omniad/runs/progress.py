"""A training's progress, read from state/progress.json (written by training/progress.py)."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from omniad.files import read_text
from omniad.runs.files import PROGRESS

MOST_BYTES = 100_000
Count = Annotated[int, Field(ge=0, le=10**12)]


class ProgressNote(BaseModel):
    """What is read of it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    epoch: Count  # whole ones done
    epochs: Count
    step: Count = 0  # of all epochs
    steps: Count = 0
    prepared: float | None = Field(default=None, ge=0, le=1)  # share of what comes before the steps
    left_s: float | None = Field(default=None, ge=0, le=1e12)  # when it was written
    updated: Annotated[datetime.datetime, Field(strict=False)]

    @property
    def age_s(self) -> float:
        written = self.updated if self.updated.tzinfo else self.updated.replace(tzinfo=datetime.UTC)
        return (datetime.datetime.now(datetime.UTC) - written).total_seconds()


def read_progress(run_dir: Path) -> ProgressNote | None:
    """None when there is none, or not one that a training wrote: it is only shown, and rewritten within seconds."""
    try:
        return ProgressNote.model_validate_json(read_text(run_dir / PROGRESS, MOST_BYTES))
    except (OSError, ValueError):
        return None
