"""Where every number comes from: a record for each run folder, as its config.yaml and provenance.json tell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omniad.reporting.layout import NOTHING
from omniad.reporting.runs import FinishedRun

HEAD = ["Run folder", "Commit", "Configuration", "Weights", "Data", "Hardware", "Trained", "Time", "Energy", "Memory"]
PREFIX = 10  # of a hash: enough to tell files apart; the whole ones are in provenance.json


def record(run: FinishedRun, results: Path) -> list[str]:
    """One line under HEAD; what was not recorded is a dash."""
    facts = run.provenance
    training = facts.get("training", {})
    return [
        Path(os.path.relpath(run.folder, results)).as_posix(),
        str(facts.get("commit") or NOTHING),
        _hash(facts.get("config_sha256")),
        _weights(run, facts),
        _hash(facts.get("data", {}).get("sha256")),
        hardware(facts.get("hardware", {})),
        str(training.get("started", NOTHING))[:10],
        duration(training.get("wall_s")),
        energy(facts),
        _memory(training.get("peak_memory_mib", {})),
    ]


def hardware(facts: Mapping[str, Any]) -> str:
    """The GPU, or the processor with its threads."""
    if not facts:
        return NOTHING
    threads = facts.get("threads", "?")
    cpu = f"{facts.get('cpu', 'unknown processor')}, {threads} thread{'' if threads == 1 else 's'}"
    return str(facts.get("gpu") or cpu)


def duration(seconds: float | None) -> str:
    """A time as a person says it."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def energy_joules(facts: Mapping[str, Any]) -> float | None:
    """Of the GPU, over training and evaluation; None where no counter was read."""
    parts = [facts.get(part, {}).get("energy_j") for part in ("training", "evaluation")]
    known = [part for part in parts if isinstance(part, int | float)]
    return sum(known) if known else None


def energy(facts: Mapping[str, Any]) -> str:
    joules = energy_joules(facts)
    return "no counter" if joules is None else f"{joules / 3.6e6:.2f} kWh"


def versions(runs: Iterable[FinishedRun]) -> dict[str, list[str]]:
    """Package -> the versions that runs were made with."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for package, version in run.provenance.get("versions", {}).items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return {package: sorted(found[package]) for package in sorted(found)}


def _hash(text: str | None) -> str:
    return str(text)[:PREFIX] if text else NOTHING


def _weights(run: FinishedRun, facts: Mapping[str, Any]) -> str:
    entry = facts.get("weights", {})
    return f"{entry.get('kind', run.settings.model.encoder_weights)} {_hash(entry.get('sha256'))}"


def _memory(peaks: Mapping[str, int]) -> str:
    """The GPU's peak where there was one, else the process's."""
    if "gpu" in peaks:
        return f"{peaks['gpu'] / 1024:.1f} GiB (GPU)"
    return f"{peaks['process'] / 1024:.1f} GiB" if "process" in peaks else NOTHING
