"""What was run: the first paragraph of the report, taken from the run folders, not from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from omniad.config import Settings
from omniad.data.weights import PACKAGED
from omniad.models.checkpoint import METHODS, epochs_of
from omniad.reporting.records import processor
from omniad.runs.finished import FinishedRun, dataset_title
from omniad.wording import count, duration, listed

WEIGHTS = {
    "imagenet": "torchvision's IMAGENET1K_V1, pretrained on ImageNet-1k",
    "timm": "timm's file named in the released configuration, pretrained on ImageNet-1k",
    "random": "random, not pretrained",
}


def what_was_run(settings: Settings, runs: list[FinishedRun]) -> str:
    """Markdown, a line and a list: data, variant, epochs, seeds, weights, hardware, dates, commit."""
    if not runs:
        return "**Nothing has been run yet.** Below are the paper's numbers and the command that fills each table."
    seeds = _plural(_unique(runs, lambda run: run.seed))
    what = f"{count(len(runs), 'run')} on {listed(_datasets(settings, runs))}, seed{seeds}."
    facts = [
        f"Method: {_methods(runs)}.",
        f"Epochs: {_grouped(runs, _epochs)}.",
        f"Images: {_grouped(runs, _size)}.",
        f"Precision: {_grouped(runs, _precision)}.",
        f"Encoder: {_grouped(runs, _encoder)}.",
        f"Encoder weights: {_grouped(runs, _weights)}.",
        f"Hardware: {_grouped(runs, _hardware)}.",
        _dates(runs),
        f"Commit: {_grouped(runs, lambda run: _code(run.provenance.get('commit')))}.",
    ]
    return "\n".join([f"**What was run:** {what}", "", *(f"- {fact}" for fact in facts)])


def _grouped(runs: Iterable[FinishedRun], text: Callable[[FinishedRun], str]) -> str:
    """The most frequent value, then each other one with the runs that have it."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(text(run), []).append(run)
    first, *others = sorted(groups, key=lambda value: -len(groups[value]))
    return "; ".join([first, *(f"{value} in {_names(groups, value)}" for value in others)])


def _names(groups: dict[str, list[FinishedRun]], value: str) -> str:
    """The runs with this value; with the data set where the same run has another value elsewhere."""
    elsewhere = {run.run for other, runs in groups.items() if other != value for run in runs}
    names = list(
        dict.fromkeys(
            f"`{run.run}`" + (f" on {run.settings.source.title}" if run.run in elsewhere else "")
            for run in groups[value]
        )
    )
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _datasets(settings: Settings, runs: list[FinishedRun]) -> list[str]:
    order = list(settings.sources)
    sources = {run.dataset: run.settings.source for run in runs}
    known = sorted(sources, key=lambda name: (order.index(name) if name in order else len(order), name))
    return [dataset_title(sources[name]) for name in known]


def _methods(runs: list[FinishedRun]) -> str:
    ours = [run for run in runs if run.settings.model.method == "omni-ad"]
    others = _unique((run for run in runs if run not in ours), lambda run: f"`{run.settings.model.method}`")
    variants = [f"Omni-AD, {_grouped(ours, lambda run: f'variant `{run.settings.model.variant}`')}"] if ours else []
    return "; ".join([*variants, *([f"other methods: {', '.join(others)}"] if others else [])])


def _epochs(run: FinishedRun) -> str:
    return str(epochs_of(run.settings) or "none")


def _size(run: FinishedRun) -> str:
    side = run.settings.data.image_size
    return f"{side} x {side} pixels"


def _precision(run: FinishedRun) -> str:
    """Of training steps; features that are constants of their image are rounded, kept or not (training/features.py)."""
    rounded = METHODS[run.settings.model.method].caches_features
    return run.settings.training.precision + (" on half-precision encoder features" if rounded else "")


def _encoder(run: FinishedRun) -> str:
    model = run.settings.model
    return f"`{model.encoder}`" + ("" if model.encoder_width == 64 else f" at width {model.encoder_width} of 64")


def _weights(run: FinishedRun) -> str:
    kind, encoder = run.settings.model.encoder_weights, run.settings.model.encoder
    if kind == "imagenet" and encoder in PACKAGED:
        return f"from the package `{PACKAGED[encoder].package}`, pretrained on ImageNet-1k"
    if kind in WEIGHTS:
        return WEIGHTS[kind]
    return f"the file `{kind}`"


def _hardware(run: FinishedRun) -> str:
    facts = run.provenance.get("hardware", {})
    cpu = processor(facts)
    return f"{facts['gpu']}; {cpu}" if facts.get("gpu") else f"{cpu}, no GPU"


def _dates(runs: list[FinishedRun]) -> str:
    training = [run.provenance["training"] for run in runs if "started" in run.provenance.get("training", {})]
    if not training:
        return "Not trained here."
    days = sorted({entry["started"][:10] for entry in training})
    seconds = sum(entry.get("wall_s", 0.0) for entry in training)
    return f"Trained {' to '.join(days if len(days) == 1 else [days[0], days[-1]])}, {duration(seconds)} in all."


def _unique(runs: Iterable[FinishedRun], value: Callable[[FinishedRun], Any]) -> list[str]:
    return [str(item) for item in sorted({value(run) for run in runs})]


def _plural(items: list[str]) -> str:
    return f" {items[0]}" if len(items) == 1 else f"s {', '.join(items)}"


def _code(commit: str | None) -> str:
    return f"`{commit}`" if commit else "unknown"
