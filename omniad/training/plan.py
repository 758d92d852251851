"""What a target of the workflow still costs: trainings, time, disk and download."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from omniad.config import RunSettings, Settings, run_settings
from omniad.data.counts import class_counts
from omniad.data.index import read_index
from omniad.data.preflight import room
from omniad.data.weights import files_by_place, weights_paths
from omniad.models.any_encoder import make_encoder
from omniad.models.checkpoint import METHODS, epochs_of
from omniad.models.complexity import complexity
from omniad.runs.files import MODEL
from omniad.runs.progress import read_progress
from omniad.runs.targets import target_names
from omniad.training.cost import training_bytes, training_hours
from omniad.training.memory import training_memory

BYTES_PER_WEIGHT = 8  # of a finished run: model.safetensors and its last state
BYTES_PER_FEATURE = 2  # half precision


@dataclass(frozen=True)
class PlannedRun:
    """One run of the target on one data set; hours are None where the number of its images is not known."""

    dataset: str
    run: str
    epochs: int
    images: int | None
    seeds: int
    trained: int
    begun: int
    hours_each: float | None
    hours_left: float | None
    memory: int  # bytes of a GPU
    memory_is_whole: bool  # else activations come on top


@dataclass(frozen=True)
class Plan:
    """A target's runs, and the bytes that are still to be downloaded and written."""

    runs: list[PlannedRun]
    download: float
    disk: float

    @property
    def hours_left(self) -> float:
        return sum(run.hours_left or 0 for run in self.runs)


def plan_target(settings: Settings, target: str, speed: float, plain_scan: float | None = None) -> Plan:
    """What a target still costs on a processor (`speed` and `plain_scan`: see cost.training_hours).

    Raises:
        UserError: there is no such target.
    """
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for name in target_names(settings, target):
        groups[name.dataset, name.run].append(name.folder(settings.results))
    runs = [_planned(run_settings(settings, *key), folders, speed, plain_scan) for key, folders in groups.items()]
    untrained = [run for run in runs if run.trained < run.seeds]
    download, disk = 0.0, 0.0
    for dataset in sorted({run.dataset for run in untrained}):
        source = settings.sources[dataset]
        needs = list(room(dataset, source, settings.data))
        disk += sum(size for _, size in needs)
        download += sum(size for place, size in needs if place == Path(source.archive))
    download += sum(_absent_weights(settings, untrained).values())
    disk += sum((run.seeds - run.trained) * BYTES_PER_WEIGHT * _weights(settings, run) for run in untrained)
    return Plan(runs, download, disk + sum(_feature_bytes(settings, untrained)))


def training_images(run: RunSettings) -> int | None:
    """Training images of the run's data set: by its index, else by the published counts, else unknown."""
    index = run.pack_folder.parent / "index.csv"
    if index.is_file():
        classes = read_index(index).query("split == 'train'")["class"].tolist()
        return sum(not run.source.classes or name in run.source.classes for name in classes)
    return sum(class_counts(run.source, "train").values()) or None


def _planned(run: RunSettings, folders: list[Path], speed: float, plain_scan: float | None) -> PlannedRun:
    images = training_images(run)
    trained = sum((folder / MODEL).exists() for folder in folders)
    shares = [_share_left(folder) for folder in folders]
    hours = None if images is None else training_hours(run, images, speed, plain_scan)
    memory = training_memory(run)
    return PlannedRun(
        run.dataset,
        run.run,
        epochs_of(run),
        images,
        len(folders),
        trained,
        begun=sum(0 < share < 1 for share in shares),
        hours_each=hours,
        hours_left=None if hours is None else hours * sum(shares),
        memory=memory.total if memory else training_bytes(run),
        memory_is_whole=memory is not None,
    )


def _share_left(folder: Path) -> float:
    """Of a run's training: 0 when it is done; part of it where a state is kept."""
    if (folder / MODEL).exists():
        return 0.0
    progress = read_progress(folder)
    if progress is None:
        return 1.0
    done = progress.step / progress.steps if progress.steps else progress.prepared or 0.0
    return 1 - min(done, 1.0)


def _absent_weights(settings: Settings, runs: Iterable[PlannedRun]) -> dict[Path, int]:
    """Files of weights that are still to be fetched, and their bytes as far as they are known."""
    known = files_by_place(settings.data)
    models = [run_settings(settings, run.dataset, run.run).model for run in runs]
    wanted = {path for model in models for path in weights_paths(model, settings.data)}
    return {path: known[path].size for path in wanted if path in known and not path.is_file()}


def _weights(settings: Settings, run: PlannedRun) -> int:
    resolved = run_settings(settings, run.dataset, run.run)
    return complexity(resolved.model, settings.data.image_size)[0]


def _feature_bytes(settings: Settings, runs: Iterable[PlannedRun]) -> Iterator[float]:
    """Of the features that are kept for each data set and encoder."""
    seen = set()
    for run in runs:
        resolved = run_settings(settings, run.dataset, run.run)
        model = resolved.model
        key = (run.dataset, model.encoder, model.encoder_width, model.encoder_weights)
        if run.images is None or key in seen or not METHODS[model.method].caches_features or model.method != "omni-ad":
            continue
        seen.add(key)
        with torch.device("meta"):
            channels = make_encoder(model.encoder, model.encoder_width).channels[-3:]
        sides = [settings.data.image_size / stride for stride in (4, 8, 16)]
        values = sum(count * side**2 for count, side in zip(channels, sides, strict=True))
        size = BYTES_PER_FEATURE * values * run.images
        folder = resolved.pack_folder / "features"
        if size <= resolved.training.cache_gib * 2**30 and not folder.is_dir():
            yield size


def plan_text(target: str, plan: Plan, processor: str) -> str:
    """The plan as a table for reading."""
    line = "{:10}  {:20}  {:>6}  {:>6}  {:>17}  {:>10}  {:>10}  {:>8}"
    lines = [line.format("data set", "run", "epochs", "images", "left", "hours each", "hours left", "GPU, GiB")]
    for run in sorted(plan.runs, key=lambda run: (run.dataset, run.run)):
        left = f"{run.seeds - run.trained} of {run.seeds}" + (f" ({run.begun} begun)" if run.begun else "")
        images, *hours = ("?" if value is None else value for value in (run.images, run.hours_each, run.hours_left))
        hours = [value if value == "?" else f"{value:,.{1 if value >= 1 else 3}f}" for value in hours]
        memory = ("" if run.memory_is_whole else "> ") + f"{run.memory / 2**30:.1f}"
        lines.append(line.format(run.dataset, run.run, run.epochs, images, left, *hours, memory))
    whole = all(run.memory_is_whole for run in plan.runs)
    total, trained = sum(run.seeds for run in plan.runs), sum(run.trained for run in plan.runs)
    time = f"{plan.hours_left:,.1f} hours" + (f" ({plan.hours_left / 24:,.0f} days)" if plan.hours_left > 48 else "")
    return "\n".join(
        [
            *lines,
            "",
            f"{target}: {total} trainings, {trained} done, {total - trained} left: about {time},",
            f"one at a time on {processor}.",
            f"Download {plan.download / 1e9:.1f} GB, disk {plan.disk / 1e9:.1f} GB more. Evaluation is not included.",
            "GPU memory is for the run's batch size" + ("." if whole else "; >: without activations."),
        ]
    )
