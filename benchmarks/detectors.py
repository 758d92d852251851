"""Fit and measure one detector in a separate process; presets.py and real.py use this."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from omniad.data.packs import open_pack
from omniad.detector.detector import Detector
from omniad.detector.fit import fit
from omniad.evaluation.evaluate import evaluate
from omniad.runs.files import METRICS, MODEL
from omniad.wording import count

SEVEN = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AU-PRO")
TIMED = 64  # images, for the time of one


class Kind(NamedTuple):
    """What is fitted: the options of `omniad fit`, and settings on top."""

    title: str
    preset: str = "fast"
    method: str = ""
    settings: Mapping[str, Any] | None = None


class Result(NamedTuple):
    """What came of it."""

    fit_s: float  # from the folder of images to the finished run folder
    image_ms: float  # of an image in memory, in batches, on the CPU or GPU that there is
    model_mb: float
    peak_mb: int  # of the process, while it fitted
    metrics: dict[str, dict[str, float]]  # class -> metric -> percent, exact


def measure(kind: Kind, images: Path, folder: Path, seed: int = 0) -> Result:
    """Fit on `images`, MVTec-AD's layout, and evaluate, in a new process; `folder` takes the run."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # not a Pool: packing has children
        return pool.submit(_measure, kind, images, folder, seed).result()


def _measure(kind: Kind, images: Path, folder: Path, seed: int) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    overlay = folder / "settings.yaml"
    overlay.write_text(yaml.safe_dump(dict(kind.settings or {})), encoding="utf-8")
    run, start = folder / "run", time.perf_counter()
    detector = fit(images, run, seed=seed, preset=kind.preset, method=kind.method, config=[overlay])
    fit_s, peak_mb = time.perf_counter() - start, peak_memory()
    evaluate(run)
    table = pd.read_csv(run / METRICS)
    table = table.loc[(table["definition"] == "exact") & (table["class"] != "mean")]
    metrics = {
        str(name): {str(metric): 100 * float(value) for metric, value in zip(of["metric"], of["value"], strict=True)}
        for name, of in table.groupby("class")
    }
    size = (run / MODEL).stat().st_size / 1e6
    return Result(fit_s, 1000 * _seconds_an_image(detector), size, peak_mb, metrics)


def _seconds_an_image(detector: Detector) -> float:
    """The fastest of three passes over some images in batches, after one."""
    pack, batch = open_pack(detector.settings.pack_folder), detector.settings.evaluation.batch_size
    images = np.ascontiguousarray(pack.images[:TIMED])
    passes = []
    for _ in range(4):
        start = time.perf_counter()
        for first in range(0, len(images), batch):
            detector.compute(images[first : first + batch])
        passes.append((time.perf_counter() - start) / len(images))
    return min(passes[1:])


def peak_memory() -> int:
    """Megabytes that this process has held at most; Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage's peak includes the parent's
    return int(status.partition("VmHWM:")[2].split()[0]) // 1000


def machine() -> str:
    """Where the times were measured, and how busy it was."""
    where = "a GPU" if torch.cuda.is_available() else count(torch.get_num_threads(), "CPU thread")
    return f"{date.today()}, {where}, load average at the start {os.getloadavg()[0]:.1f}"
