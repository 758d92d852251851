"""Measure images per second of `omniad evaluate` and `omniad predict` on random images, files included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from omniad.config import RunSettings, to_yaml
from omniad.data.counts import read_counts
from omniad.data.packs import EXACT, PUBLISHED, open_pack
from omniad.evaluation.batches import Batches
from omniad.evaluation.evaluate import compute_maps, evaluate
from omniad.metrics import evaluate_class
from omniad.models import save_model

from .bench import Bench, Row, write_random_pack

BATCHES = (16, 64)


def evaluation(bench: Bench) -> Iterator[Row]:
    """MVTec-AD's test images by their counts: the command as a whole, and its two halves."""
    run = bench.run("default")
    run_dir = write_run(bench, run)
    write_random_pack(run.pack_folder.parent, bench.size, mvtec_counts(bench.dry))
    for attempt in ("first", "second"):  # the first compiles the metrics' loops
        start = time.perf_counter()
        evaluate(run_dir, bench.device)
        seconds = time.perf_counter() - start
        images = len((run_dir / "scores.csv").read_text(encoding="utf-8").splitlines()) - 1
        yield _row(f"omniad evaluate, {attempt} time", images, seconds)
    pack = open_pack(run.pack_folder)
    model = bench.build(run).eval()
    rows = pack.index.loc[pack.index["split"] == "test"]
    members = rows.index.to_numpy()
    for batch in BATCHES:
        start = time.perf_counter()
        maps, scores = compute_maps(model, pack.images, members, run, Batches(batch, bench.device))
        yield _row(f"images to maps, batches of {batch}", len(members), time.perf_counter() - start)
    labels, start = rows["label"].to_numpy(), time.perf_counter()
    for name in sorted(set(rows["class"])):
        chosen = (rows["class"] == name).to_numpy()
        exact, published = (pack.masks(members[chosen], bit) for bit in (EXACT, PUBLISHED))
        evaluate_class(maps[chosen], exact, labels[chosen], published, scores=scores[chosen])
    yield _row("maps to metrics, both definitions", len(members), time.perf_counter() - start)


def prediction(bench: Bench) -> Iterator[Row]:
    """JPEGs of 1024x1024 pixels to scores, and to maps and overlays too; then from pixels in memory."""
    from omniad.detector.detector import Detector
    from omniad.detector.predict import predict

    run_dir = write_run(bench, bench.run("default"))
    files = _write_images(bench.folder / "images", 4 if bench.dry else 256, 256 if bench.dry else 1024)
    detector = Detector(run_dir, bench.device)
    list(detector.score(files[:2]))
    for what, out in (("scores alone", None), ("maps and overlays", bench.folder / "predictions")):
        start = time.perf_counter()
        predict(detector, files, out)
        yield _row(f"omniad predict, {what}", len(files), time.perf_counter() - start)
    for batch in (1, 16, 64):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, bench.size, bench.size, 3), np.uint8)
        repeats = 2 if bench.dry else 20
        detector.compute(pixels)
        start = time.perf_counter()
        for _ in range(repeats):
            detector.compute(pixels)
        yield _row(f"from pixels in memory, batches of {batch}", batch * repeats, time.perf_counter() - start)


def write_run(bench: Bench, run: RunSettings) -> Path:
    """A run folder with random weights."""
    folder = bench.folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(run), encoding="utf-8")
    save_model(bench.build(run), run.model, folder / "model.safetensors")
    return folder


def mvtec_counts(dry: bool) -> dict[str, tuple[int, int, int]]:
    """MVTec-AD's images: class -> none of training, good test, defective test images."""
    counts: dict[str, list[int]] = {}
    for (name, split, defect), images in (read_counts("mvtec", []) or {}).items():
        good_bad = counts.setdefault(name, [0, 0])
        if split == "test":
            good_bad[defect != "good"] += images
    if dry:
        return dict.fromkeys(list(counts)[:2], (0, 2, 2))
    return {name: (0, good, bad) for name, (good, bad) in counts.items()}


def _write_images(folder: Path, count: int, side: int) -> list[Path]:
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
        files.append(folder / f"{number:04}.jpg")
        small.resize((side, side), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def _row(what: str, images: int, seconds: float) -> Row:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"scored": what, "images": images, "s": round(seconds, 2), "images/s": round(images / seconds, 1)}
