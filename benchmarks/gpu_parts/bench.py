"""Shared by all parts: the device, the sizes, a clock that waits for the device, and random data."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniad.config import RunSettings, Settings, TrainingSettings, load_settings, run_settings
from omniad.models import Method, build_model

Row = dict[str, Any]
TINY: dict[str, Any] = {"encoder_width": 8, "depths": [1, 1, 1, 1], "tokens": 4}


@dataclass(frozen=True)
class Bench:
    """One part's surroundings; `dry` makes everything tiny, to see on a CPU that a part runs."""

    device: torch.device
    dry: bool
    folder: Path  # for files that the part needs
    deadline: float  # of time.monotonic
    data: tuple[Path, ...] = ()  # folders of real images in MVTec-AD's layout, a folder a class
    weights: Path | None = None  # of the encoder for them
    overlay: tuple[str, ...] = ()  # KEY=VALUE settings of the real training

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return 64 if self.dry else 256

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, name: str, **training: Any) -> RunSettings:
        """A configured run on MVTec-AD, without weights; tiny in a dry run."""
        settings: Settings = load_settings()
        run = run_settings(settings, "mvtec", name)
        training = {"textures": ""} | training
        model: dict[str, Any] = {"encoder_weights": "random"}
        if self.dry:
            model |= TINY
            training = {"batch_size": 2} | training
        return run.model_copy(
            update={
                "model": run.model.model_copy(update=model),
                "training": run.training.model_copy(update=training),
                "data": run.data.model_copy(update={"image_size": self.size, "prepared": str(self.folder)}),
            }
        )

    def build(self, run: RunSettings) -> Method:
        """Its model with random weights, drawn on the device."""
        torch.manual_seed(0)
        with self.device:
            return build_model(run.model).to(self.device)

    def images(self, count: int, size: int | None = None) -> Tensor:
        """Random normalised images (count, 3, S, S)."""
        return torch.randn(count, 3, size or self.size, size or self.size, device=self.device)

    def milliseconds(self, work: Callable[[], object], repeats: int = 30, warm_up: int = 5) -> list[float]:
        """Of `repeats` calls, each between two events of the device."""
        repeats, warm_up = (2, 0) if self.dry else (repeats, warm_up)
        for _ in range(warm_up):
            work()
        if self.device.type != "cuda":
            return [_wall_ms(work) for _ in range(repeats)]
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in itertools.pairwise(marks)]

    def median_ms(self, work: Callable[[], object], repeats: int = 30, warm_up: int = 5) -> float:
        return statistics.median(self.milliseconds(work, repeats, warm_up))

    def peak_mib(self, work: Callable[[], object]) -> int | None:
        """Largest memory of the device while `work` runs, what lies there before included."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() // 2**20


def _wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """||found - expected|| / ||expected|| over all tensors together, in double precision on the CPU."""
    doubles = [[tensor.detach().cpu().double() for tensor in tensors] for tensors in (found, expected)]
    error = sum(float((a - b).square().sum()) for a, b in zip(*doubles, strict=True))
    return (error / max(sum(float(b.square().sum()) for b in doubles[1]), 1e-300)) ** 0.5


def feature_batches(
    bench: Bench, model: Method, batch: int, count: int = 4, layout: torch.memory_format = torch.contiguous_format
) -> Iterator[list[Tensor]]:
    """Batches of what the encoder gives for random images, over and over; as training reads them from its cache."""
    kept: list[list[Tensor]] = []
    for _ in range(count):
        images = bench.images(batch)
        features = [level.contiguous(memory_format=layout) for level in model.encode(images)]
        drawn = model.draw(TrainingSettings(textures=""), images.cpu(), torch.Generator())
        kept.append([*([level.half() for level in features] if model.caches_features else features), *drawn])
    while True:
        for levels in kept:
            yield [level.to(bench.device).float() for level in levels]


def write_random_pack(folder: Path, size: int, counts: dict[str, tuple[int, int, int]]) -> None:
    """A pack of random images in `<folder>/<size>/` and its index; class -> train, good test, defective test images.

    Images are smooth; a defect is a square of other brightness, which its mask marks.
    """
    import pandas as pd

    from omniad.data.packs import EXACT, PACK_VERSION, PUBLISHED
    from omniad.files import sha256_file

    rng, lines, place = np.random.default_rng(0), [], folder / str(size)
    total = sum(map(sum, counts.values()))
    images, masks = np.empty((total, size, size, 3), np.uint8), np.zeros((total, size, size), np.uint8)
    coarse = rng.integers(40, 200, (total, size // 16, size // 16, 3), np.uint8)
    for name, (train, good, defective) in sorted(counts.items()):
        kinds = [*(("test", "good"),) * good, *(("test", "spot"),) * defective, *(("train", "good"),) * train]
        for split, defect in kinds:
            row, label = len(lines), int(defect == "spot")
            images[row] = coarse[row].repeat(16, 0).repeat(16, 1)
            if label:
                top, left = rng.integers(0, size // 2, 2)
                masks[row, top : top + size // 6, left : left + size // 6] = EXACT | PUBLISHED
                images[row][masks[row] > 0] += 50
            path = f"{name}/{split}/{defect}/{row:05}.png"
            lines.append((name, split, label, defect, path, path if label else ""))
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "images.npy", images)
    np.save(place / "masks.npy", masks)
    index = pd.DataFrame(lines, columns=pd.Index(["class", "split", "label", "defect", "image", "mask"]))
    index.to_csv(folder / "index.csv", index=False, lineterminator="\n")
    digest = f"random {size} {sorted(counts.items())}"
    note = {
        "version": PACK_VERSION,
        "size": size,
        "images": total,
        "index_sha256": sha256_file(folder / "index.csv"),
        "digest": digest,
    }
    (place / "pack.json").write_text(json.dumps(note), encoding="utf-8")
