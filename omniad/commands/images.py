"""Your own images: fit, predict, export."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from pathlib import Path

from omniad.commands.parser import Commands, number, seed, whole_number
from omniad.config import TileSettings
from omniad.detector.presets import DEFAULT, PRESETS
from omniad.errors import UserError


def fit(options: argparse.Namespace) -> None:
    from omniad.detector.fit import fit

    chosen = {"preset": options.preset, "method": options.method, "config": options.config}
    tiles = {"tile": options.tile, "overlap": options.overlap, "scale": options.scale}
    fit(options.folder, options.out, options.epochs, options.quantile, options.weights, options.seed, **chosen, **tiles)


def predict(options: argparse.Namespace) -> None:
    if options.out is None and not options.json:
        raise UserError("give --out DIR for the results, or --json to print the scores")
    if options.full_size and options.out is None:
        raise UserError("--full-size writes files: give --out DIR, too")
    from omniad.detector.detector import Detector
    from omniad.detector.predict import Row, predict

    detector = Detector(options.run_dir, "cpu" if options.cpu else None, options.threshold)

    def print_json(row: Row) -> None:
        answer = {"path": row.path, "score": row.score, "verdict": row.verdict or None, "threshold": detector.threshold}
        print(json.dumps(answer), flush=True)

    # After SIGTERM, as after Ctrl-C, it reports what is done. (By default it would end silently.)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        predict(detector, options.images, options.out, options.full_size, print_json if options.json else None)
    finally:
        signal.signal(signal.SIGTERM, before)


def export(options: argparse.Namespace) -> None:
    from omniad.detector.export import export

    export(options.run_dir, options.out, options.format)


def positive(text: str) -> int:
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def finite(text: str) -> float:
    value = number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError("must be a finite number")
    return value


def add_preset(sub: argparse.ArgumentParser, default: str | None) -> None:
    """`--preset` and `--method`."""
    sub.add_argument(
        "--preset",
        choices=PRESETS,
        default=default,
        help=f"the detector's encoder, method and settings (default of fit: {DEFAULT})",
    )
    sub.add_argument(
        "--method", default="", metavar="NAME", help="a method other than the preset's default, for example patchcore"
    )


def add_commands(commands: Commands) -> None:
    sub = commands.add_configured(
        "fit",
        fit,
        "make a detector from your own good images (rerun the same command to resume)",
        "bolts/good --out my_run",
        reads="FOLDER: good images of one product, or a folder per product, or MVTec-AD's, AD 2's or LOCO AD's layout",
        writes="RUN_DIR with config.yaml, model.safetensors, history.csv, provenance.json, threshold.json, prepared/",
    )
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="the good images; see above")
    sub.add_argument("--out", required=True, type=Path, metavar="RUN_DIR", help="a new folder, or the one to resume")
    add_preset(sub, default=DEFAULT)
    sub.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="for methods that train; default: between 10 and 500, depending on the preset",
    )
    sub.add_argument(
        "--quantile",
        type=number,
        default=0.99,
        help="share of the good images that must not exceed the threshold (default: %(default)s)",
    )
    sub.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="file of encoder weights; default: those of its package, or the configured ones, fetched once",
    )
    sub.add_argument("--seed", type=seed, default=0, help="seed of all random draws (default: %(default)s)")
    sub.add_argument(
        "--tile",
        type=whole_number,
        metavar="PIXELS",
        help="cut images into tiles of this side instead of resizing them",
    )
    default = TileSettings()
    sub.add_argument(
        "--overlap",
        type=whole_number,
        metavar="PIXELS",
        help=f"overlap of neighbouring tiles (default: {default.overlap})",
    )
    sub.add_argument(
        "--scale",
        type=number,
        metavar="FACTOR",
        help=f"scale the images before cutting them (default: {default.scale:g})",
    )

    sub = commands.add(
        "predict",
        predict,
        "score images and draw their anomalous regions",
        "my_run new_images/ --out predictions",
        reads="RUN_DIR/config.yaml, model.safetensors and fit's threshold.json; images of any size and mode",
        writes="scores.csv, maps/<name>.npy and overlays/<name>.png in DIR; skipped.csv if some images can't be read",
    )
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a detector that `omniad fit` made, or any run")
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGES", help="files and folders, searched at any depth")
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder of the results; needed unless --json is given")
    sub.add_argument("--full-size", action="store_true", help="also write each map at the image's full size")
    sub.add_argument(
        "--threshold",
        type=finite,
        metavar="SCORE",
        help="images that score higher are called anomalous (default: fit's)",
    )
    sub.add_argument("--cpu", action="store_true", help="do not use a GPU")
    sub.add_argument("--json", action="store_true", help="print one line of JSON per image")

    sub = commands.add(
        "export",
        export,
        "export the model as one graph, from image tensor to smoothed map and score",
        "my_run --format onnx --out detector.onnx",
        reads="RUN_DIR/config.yaml and model.safetensors",
        writes="FILE: images (B, 3, S, S), RGB in [0, 1] -> maps (B, S, S), scores (B,); checked against PyTorch. For "
        "a run on tiles the images are tiles: docs/from-python.md shows how to cut them and blend their maps",
    )
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a detector that `omniad fit` made, or any run")
    sub.add_argument("--format", required=True, choices=["onnx", "pt2"], help="pt2: for torch.export.load")
    sub.add_argument("--out", required=True, type=Path, metavar="FILE", help="the graph's file")
