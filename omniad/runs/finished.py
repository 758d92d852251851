"""The finished runs in a results folder: where they are, how they were trained, what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniad.config import RunSettings, SourceSettings
from omniad.data.counts import subset_text
from omniad.errors import UserError
from omniad.runs.files import METRICS, run_name
from omniad.runs.provenance import load_run_settings, read_provenance


@dataclass(frozen=True)
class FinishedRun:
    """One run folder `runs/<dataset>/<run>/seed<n>` that has been evaluated."""

    folder: Path
    dataset: str
    run: str
    seed: int
    settings: RunSettings
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its data set's name, with what makes it incomparable."""
        return dataset_title(self.settings.source)


def dataset_title(source: SourceSettings) -> str:
    """A data set's name, with what makes it another one than the published: "MVTec-AD (2 of 15 classes)"."""
    remarks = ["miniature"] * source.miniature + [subset_text(source)] * bool(source.classes)
    return source.title + (f" ({', '.join(remarks)})" if remarks else "")


def finished_runs(results: str | Path) -> list[FinishedRun]:
    """Every evaluated run below `results`, sorted by data set, run and seed.

    Raises:
        UserError: a run folder has metrics but no readable config.yaml, or a damaged provenance.json.
    """
    return [read_run(folder) for folder in evaluated_folders(results)]


def evaluated_folders(results: str | Path) -> list[Path]:
    """The run folders below `results` that have metrics, sorted by data set, run and seed."""
    named = {file.parent: run_name(file.parent) for file in Path(results).glob(f"runs/*/*/seed*/{METRICS}")}
    return sorted((folder for folder, name in named.items() if name), key=lambda folder: named[folder] or ())


def read_run(folder: Path) -> FinishedRun:
    """One run folder. Raises UserError as `finished_runs` does."""
    name = run_name(folder)
    if name is None:
        raise UserError(f"{folder}: not a run folder: its path must end in <data set>/<run>/seed<n>")
    return FinishedRun(folder, *name, load_run_settings(folder), read_provenance(folder))


def differences(was: RunSettings, now: RunSettings) -> list[str]:
    """How a run was made differently from what the configuration says now: "training.epochs 3 instead of 500"."""
    return [f"{key} {old} instead of {new}" for key, old, new in _differences(was, now)]


def _differences(was: RunSettings, now: RunSettings) -> Iterator[tuple[str, Any, Any]]:
    if was.data.image_size != now.data.image_size:
        yield "data.image_size", was.data.image_size, now.data.image_size
    if was.source.miniature != now.source.miniature:
        yield "source.miniature", was.source.miniature, now.source.miniature
    for key in ("classes", "resolution", "views"):
        if getattr(was.source, key) != getattr(now.source, key):
            yield f"source.{key}", getattr(was.source, key), getattr(now.source, key)
    before = was.numbers()
    for group, values in now.numbers().items():
        for key, new in values.items():
            if before[group][key] != new:
                yield f"{group}.{key}", before[group][key], new
