"""Where every number comes from: a record for each run folder, from its config.yaml and provenance.json."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omniad.files import write_csv
from omniad.reporting.cells import NOTHING
from omniad.runs.finished import FinishedRun
from omniad.wording import count, duration

HEAD = ["Run folder", "Commit", "Configuration", "Weights", "Data", "Hardware", "Trained", "Time", "Energy", "Memory"]
CSV_COLUMNS = ["dataset", "run", "seed", "folder", "commit", "config_sha256", "model_sha256", "data_sha256", "weights"]
CSV_COLUMNS += ["weights_file", "weights_sha256", "hardware", "started", "training_s", "evaluation_s", "energy_j"]
CSV_COLUMNS += ["process_mib", "gpu_mib"]
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
        duration(training["wall_s"]) if "wall_s" in training else NOTHING,
        energy(facts),
        _memory(training.get("peak_memory_mib", {})),
    ]


def write_records(runs: Iterable[FinishedRun], results: Path, out: Path) -> None:
    """All of that and more, whole, as a CSV file: a line a run folder, empty where nothing was recorded."""
    write_csv(out, CSV_COLUMNS, (_facts(run, results) for run in runs), for_people=True)


def _facts(run: FinishedRun, results: Path) -> dict[str, Any]:
    """A run's line by CSV_COLUMNS; None where nothing was recorded."""
    facts, weights = run.provenance, run.provenance.get("weights", {})
    training, evaluation = facts.get("training", {}), facts.get("evaluation", {})
    return {
        "dataset": run.dataset,
        "run": run.run,
        "seed": run.seed,
        "folder": Path(os.path.relpath(run.folder, results)).as_posix(),
        "commit": facts.get("commit"),
        "config_sha256": facts.get("config_sha256"),
        "model_sha256": facts.get("model_sha256"),
        "data_sha256": facts.get("data", {}).get("sha256"),
        "weights": weights.get("kind"),
        "weights_file": weights.get("file"),
        "weights_sha256": weights.get("sha256"),
        "hardware": hardware(facts.get("hardware", {})),
        "started": training.get("started"),
        "training_s": training.get("wall_s"),
        "evaluation_s": evaluation.get("wall_s"),
        "energy_j": energy_joules(facts),
        "process_mib": training.get("peak_memory_mib", {}).get("process"),
        "gpu_mib": training.get("peak_memory_mib", {}).get("gpu"),
    }


def hardware(facts: Mapping[str, Any]) -> str:
    """The GPU, or the processor with its threads."""
    return str(facts.get("gpu") or processor(facts)) if facts else NOTHING


def processor(facts: Mapping[str, Any]) -> str:
    """The processor with the threads that were used."""
    return f"{facts.get('cpu', 'unknown processor')}, {count(facts.get('threads', '?'), 'thread')}"


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
    kind = str(entry.get("kind", run.settings.model.encoder_weights))
    return kind if kind == "random" else f"{kind} {_hash(entry.get('sha256'))}"


def _memory(peaks: Mapping[str, int]) -> str:
    """The GPU's peak where there was one, else the process's."""
    if "gpu" in peaks:
        return f"{peaks['gpu'] / 1024:.1f} GiB (GPU)"
    return f"{peaks['process'] / 1024:.1f} GiB" if "process" in peaks else NOTHING
