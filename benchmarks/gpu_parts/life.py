"""Check everything around a training on a device: caches, kill and resume, the energy counter, the exported graph."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import omniad.training.loop
from omniad.config import RunSettings
from omniad.data.packs import open_pack
from omniad.detector.export import export
from omniad.energy import EnergyMeter
from omniad.training.features import TrainingFeatures
from omniad.training.train import train

from .bench import TINY, Bench, Row, distance, write_random_pack
from .scoring import write_run


class Killed(BaseException):
    """Ends a training as kill -9 does: nothing is saved on the way out."""


def checks(bench: Bench) -> Iterator[Row]:
    for check in (caches, resume, energy, exported):
        try:
            yield from check(bench)
        except Exception as error:  # costs only this check
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield {"checked": check.__name__, "passed": False, "note": note}


def _small_run(bench: Bench, **training: Any) -> RunSettings:
    """The default run with one block a stage, on a pack of random images."""
    settings = {"epochs": 3, "batch_size": 4, "save_every_s": 0.0} | training
    run = bench.run("default", **settings)
    model = run.model.model_copy(update={"depths": TINY["depths"]})
    run = run.model_copy(update={"model": model})
    if not run.pack_folder.is_dir():
        write_random_pack(run.pack_folder.parent, bench.size, {"one": (10, 2, 2), "two": (10, 2, 2)})
    return run


def caches(bench: Bench) -> Iterator[Row]:
    """Features on the device, read from disk through pinned memory, and recomputed give the same batches."""
    run = _small_run(bench)
    pack, model = open_pack(run.pack_folder), bench.build(run)
    everything = sys.maxsize  # what training is said to take, so that nothing is left for features
    ways = {"on the device": (1.0, 0), "pinned": (1.0, everything), "anew": (0.0, everything)}
    batches: dict[str, list[list[Tensor]]] = {}
    for way, (cache_gib, wanted) in ways.items():
        features = TrainingFeatures(model, pack, 4, cache_gib, bench.device, wanted=wanted)
        batches[way] = [[level.clone() for level in batch] for batch in features.epoch(0, 1)]
    expected = batches.pop("anew")
    for way, found in batches.items():
        errors = [distance(a, b) for a, b in zip(found, expected, strict=True)]
        yield {
            "checked": f"batches, features {way}, against recomputed ones",
            "passed": max(errors) <= 1e-3,  # half precision may round the other way
            "note": f"{len(errors)} batches differ by at most {max(errors):.1e}",
        }


def resume(bench: Bench) -> Iterator[Row]:
    """A training killed in the middle of an epoch, then repeated, beside two that were not."""
    for graph in (False,) if bench.device.type == "cpu" else (False, True):
        run = _small_run(bench, cuda_graph=graph)
        losses = {}
        for name in ("whole", "again", "killed"):
            out = bench.folder / f"resume-{name}-{graph}"
            shutil.rmtree(out, ignore_errors=True)
            if name == "killed":
                _train_until(run, out, bench.device, steps=8)
            train(run, 0, out, bench.device)
            losses[name] = _losses(out)
        noise, error = (float(np.abs(losses[name] / losses["whole"] - 1).max()) for name in ("again", "killed"))
        yield {
            "checked": f"killed and resumed, {'with' if graph else 'without'} a CUDA graph",
            "passed": error <= max(10 * noise, 1e-4),
            "note": f"losses of the epochs differ by {error:.1e}; two whole trainings by {noise:.1e}",
        }


def _train_until(run: RunSettings, out: Path, device: torch.device, steps: int) -> None:
    """Train, and die before the given step."""
    done, make = 0, omniad.training.loop.make_step

    def mortal(*arguments: Any) -> Callable:
        step = make(*arguments)

        def work(*inputs: Any) -> Any:
            nonlocal done
            if done == steps:
                raise Killed
            done += 1
            return step(*inputs)

        return work

    omniad.training.loop.make_step = mortal
    try:
        train(run, 0, out, device)
    except Killed:
        return
    finally:
        omniad.training.loop.make_step = make
    raise RuntimeError("the training was not killed")


def _losses(out: Path) -> np.ndarray:
    with (out / "history.csv").open(encoding="utf-8") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def energy(bench: Bench) -> Iterator[Row]:
    """The card's counter over two busy seconds is a plausible power."""
    meter = EnergyMeter(bench.device)
    if bench.device.type != "cuda":
        yield {"checked": "energy counter", "passed": not meter.counts, "note": "none on a CPU"}
        return
    a = torch.randn(8192, 8192, device=bench.device)
    meter.joules()
    start = time.monotonic()
    while time.monotonic() - start < 2:
        torch.mm(a, a)
        torch.cuda.synchronize()
    joules, seconds = meter.joules(), time.monotonic() - start
    watts = joules / seconds
    yield {"checked": "energy counter", "passed": meter.counts and 50 < watts < 1500, "note": f"{watts:.0f} W at work"}


def exported(bench: Bench) -> Iterator[Row]:
    """A pt2 graph, made on the CPU and run on the device, gives the CPU's maps."""
    run = _small_run(bench)
    run_dir, file = write_run(bench, run), bench.folder / "graph.pt2"
    export(run_dir, file, "pt2")
    images = torch.rand(3, 3, bench.size, bench.size)
    with torch.no_grad():
        expected = list(torch.export.load(file).module()(images))
        graph = torch.export.load(file).module().to(bench.device)
        found = list(graph(images.to(bench.device)))
    error = distance(found, expected)
    yield {"checked": "exported graph (pt2) on the device", "passed": error <= 1e-3, "note": f"differs by {error:.1e}"}
