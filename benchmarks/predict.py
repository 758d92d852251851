"""Measure how fast own images are scored: `predict` and the exported graphs beside a plain PyTorch loop.

    python benchmarks/predict.py [--images N] [--folder DIR] [--only tensors|files|tiles]

The model is the paper's default at 256 pixels, with random weights, which do not affect the time; tiles are also
measured with the preset `fast`, whose model is small. Prints Markdown. Writes some hundred megabytes to a temporary
folder, or to DIR, where a second call finds the exported graphs, which take minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from omniad.config import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    RunSettings,
    SourceSettings,
    TileSettings,
    TrainingSettings,
    to_yaml,
)
from omniad.data.packs import normalise
from omniad.detector.detector import Detector
from omniad.detector.export import export
from omniad.detector.predict import predict
from omniad.detector.presets import choose
from omniad.detector.tiles import Grid
from omniad.models import build_model, save_model
from omniad.models.anomaly_map import smooth

SIZE, SIDE = 256, 1024  # pixels of the run, and of the images on disk
BATCH = 16
PHOTOGRAPH, TILES, ROUNDS = (800, 1800), TileSettings(), 3
PAPER = ModelSettings(encoder_weights="random")
FAST = choose("fast").settings.model.model_copy(update={"encoder_weights": "random"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("tensors", "files", "tiles"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"{torch.get_num_threads()} threads, {device}, load of the machine {os.getloadavg()[0]:.1f}\n")
        if options.only != "tiles":
            detector = Detector(make_run(folder / "run", PAPER), device)
        if options.only in (None, "tensors"):
            of_tensors(folder, detector)
        if options.only in (None, "files"):
            of_files(folder, detector, make_images(folder / "images", options.images))
        if options.only in (None, "tiles"):
            of_tiles(folder, device)


def make_run(folder: Path, model: ModelSettings, tiles: TileSettings | None = None) -> Path:
    settings = RunSettings(
        dataset="parts",
        run="untrained",
        source=SourceSettings(title="Parts", layout="own", folder="parts"),
        data=DataSettings(),
        model=model,
        training=TrainingSettings(),
        evaluation=EvaluationSettings(batch_size=BATCH),
        tiles=tiles,
    )
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(settings))
    save_model(build_model(model), model, folder / "model.safetensors")
    return folder


def make_images(folder: Path, number: int) -> list[Path]:
    """Large JPEGs with some grain, as a camera gives them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).resize((SIDE, SIDE))
        grain = rng.integers(0, 8, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(np.asarray(coarse) // 2 + grain).save(folder / f"{image:04}.jpg", quality=90)
    return sorted(folder.iterdir())[:number]


def of_tensors(folder: Path, detector: Detector) -> None:
    """From resized pixels in memory to maps and scores: no file is read."""
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "plain PyTorch": lambda pixels: plain(detector, pixels),
        "`Detector.compute`": detector.compute,
    }
    if detector.device.type == "cpu":
        import onnxruntime

        for kind in ("onnx", "pt2"):
            if not (folder / f"detector.{kind}").exists():
                export(detector.run_dir, folder / f"detector.{kind}", kind)
        # As many threads as PyTorch has.
        choice = onnxruntime.SessionOptions()
        choice.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(folder / "detector.onnx", choice, providers=["CPUExecutionProvider"])
        program = torch.export.load(folder / "detector.pt2").module()
        ways["exported, ONNX Runtime"] = lambda pixels: session.run(None, {"images": as_floats(pixels).numpy()})
        ways["exported, pt2"] = lambda pixels: program(as_floats(pixels))
    rng = np.random.default_rng(0)
    print("| from pixels in memory | latency of one image, ms | images/s, batches of 16 |")
    print("|---|---|---|")
    one, many = (rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8) for batch in (1, BATCH))
    singles, every_batch = ({name: [] for name in ways} for _ in range(2))
    for turn in range(4):  # in turn, so that what else the machine does harms all alike; the first one warms up
        for name, way in ways.items():
            single, batch = [_seconds(way, one) for _ in range(3)], _seconds(way, many)
            if turn:
                singles[name] += single
                every_batch[name].append(batch)
    for name in ways:
        single, batches = singles[name], every_batch[name]
        print(f"| {name} | {1000 * statistics.median(single):.0f} | {BATCH / min(batches):.2f} |", flush=True)


def of_files(folder: Path, detector: Detector, files: list[Path]) -> None:
    """From image files to scores, and to everything that `predict` writes."""
    ways: dict[str, Callable[[], object]] = {
        "plain loop: read, resize, compute": lambda: plain_files(detector, files),
        "`predict`, scores alone": lambda: predict(detector, files),
        "`predict` with maps and overlays": lambda: predict(detector, files, folder / "out"),
    }
    print(f"\n| {len(files)} JPEGs of {SIDE}x{SIDE} | images/s |")
    print("|---|---|")
    for name, way in ways.items():
        print(f"| {name} | {len(files) / _seconds(way):.2f} |", flush=True)


def of_tiles(folder: Path, device: str) -> None:
    """Large photographs, beside the plain loop over as many tiles that lie in memory; the goal is 0.9 of its speed."""
    height, width = PHOTOGRAPH if device == "cpu" else (4 * PHOTOGRAPH[0], 4 * PHOTOGRAPH[1])
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).resize((width, height))
    coarse.save(folder / "photograph.jpg", quality=90)
    pixels, number = np.asarray(coarse), len(Grid((height, width), SIZE, TILES.overlap).places)
    tiles = rng.integers(0, 256, (number, SIZE, SIZE, 3), np.uint8)
    print(f"\n| {width}x{height} in {number} tiles | Mpixel/s of tiles | share of the plain loop's |")
    print("|---|---|---|")
    for about, model in {"paper": PAPER, "fast": FAST}.items():
        detector = Detector(make_run(folder / f"tiled-{about}", model, TILES), device)
        ways: dict[str, Callable[[], object]] = {
            "plain loop": lambda d=detector: [plain(d, tiles[k : k + BATCH]) for k in range(0, number, BATCH)],
            "`Detector.compute_whole`": lambda d=detector: d.compute_whole(pixels),
            "`Detector.score`, from the file": lambda d=detector: list(d.score(folder / "photograph.jpg")),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):  # in turn, as above
            for name, way in ways.items():
                found = _seconds(way)
                if turn:
                    seconds[name].append(found)
        for name, found in seconds.items():
            share = statistics.median(a / b for a, b in zip(seconds["plain loop"], found, strict=True))
            speed = number * SIZE**2 / 1e6 / min(found)
            print(f"| {about}: {name} | {speed:.2f} | {share:.2f} |", flush=True)


@torch.inference_mode()
def plain(detector: Detector, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What one would write: normalise, model, smooth, maximum."""
    images = normalise(pixels).to(detector.device)
    maps = smooth(detector.model.anomaly_maps(detector.model.encode(images), SIZE), 4.0)
    return maps.cpu().numpy(), maps.amax(dim=(1, 2)).cpu().numpy()


def plain_files(detector: Detector, files: list[Path]) -> None:
    for start in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        plain(detector, np.stack([np.asarray(image.resize((SIZE, SIZE))) for image in images]))


def as_floats(pixels: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in [0, 1], as the graphs take them."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _seconds(way: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    way(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
