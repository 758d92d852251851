"""A snapshot: the complete resolved configuration in one file, loaded without any other.

The workflow writes one (`results/config.yaml`) before its first job, and every job reads it; so an edit of `config/`
in the middle of a week of trainings changes nothing until the workflow is called again. `omniad settings` prints one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from omniad.config.settings import Settings
from omniad.errors import UserError

MARK = "snapshot"  # the key that tells a snapshot from an overlay
FORMAT = 1
# Keys that an overlay never has all of. Snapshots had no mark before format 1.
UNMARKED = {"title", "results", "datasets", "seeds", "sources", "data", "model", "training", "evaluation", "runs"}


def snapshot_file(results: str) -> str:
    """Where the workflow's snapshot lies in its results folder."""
    return f"{results}/config.yaml"


def snapshot_text(settings: Settings) -> str:
    """The configuration as a snapshot, YAML, keys in the order of settings.py."""
    values = {MARK: FORMAT} | settings.model_dump()
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def is_snapshot(values: Mapping[str, Any]) -> bool:
    return MARK in values or values.keys() >= UNMARKED


def snapshot_values(values: Mapping[str, Any], file: str) -> dict[str, Any]:
    """A snapshot's values, without its mark.

    Raises:
        UserError: another version wrote it: it lacks a setting, and today's default may not be what its runs had.
    """
    if values.get(MARK) == FORMAT:
        held = {key: value for key, value in values.items() if key != MARK}
        absent = _absent(held, Settings.model_construct().model_dump())
        if not absent:
            return held
        reason = f"it lacks {', '.join(absent[:3])}" + (", ..." if absent[3:] else "")
    else:
        reason = f"its format is {values.get(MARK, 'older than 1')}, not {FORMAT}"
    raise UserError(
        f"{file}: a snapshot of another omniad version ({reason}); run snakemake again to write a new one, "
        "or use the version that wrote it"
    )


def _absent(values: Mapping[str, Any], complete: Mapping[str, Any], path: str = "") -> list[str]:
    """Settings that every complete configuration has and these values lack."""
    absent = []
    for key, value in complete.items():
        if key not in values:
            absent.append(f"{path}{key}")
        elif path == "" and key in ("sources", "downloads", "runs", "tables", "figures"):
            continue  # names of a user's choice; what an entry lacks has one meaning: not changed
        elif isinstance(value, Mapping) and isinstance(values[key], Mapping):
            absent += _absent(values[key], value, f"{path}{key}.")
    return absent
