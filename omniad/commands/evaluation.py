"""Evaluation: evaluate, metrics."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omniad.commands.parser import Commands


def evaluate(options: argparse.Namespace) -> None:
    from omniad.detector.evaluate import evaluate_tiled
    from omniad.evaluation.evaluate import evaluate
    from omniad.runs.provenance import load_run_settings

    tiled = load_run_settings(options.run_dir).tiles is not None
    (evaluate_tiled if tiled else evaluate)(options.run_dir, keep_maps=options.maps)


def metrics(options: argparse.Namespace) -> None:
    from omniad.metrics import metrics_of_files

    values = metrics_of_files(options.maps, options.masks, options.labels, options.definition)
    if options.json:
        # NaN is not JSON: an undefined metric is null.
        print(json.dumps({name: None if value != value else value for name, value in values.items()}))
    else:
        print("\n".join(f"{name:8} {value:.6f}" for name, value in values.items()))
        if any(value != value for value in values.values()):
            print("nan: undefined, because it needs both normal and anomalous images, or pixels", file=sys.stderr)


def add_commands(commands: Commands) -> None:
    sub = commands.add(
        "evaluate",
        evaluate,
        "score a run's test images and write its metrics",
        "results/runs/mvtec/default/seed0",
        reads="RUN_DIR/config.yaml and model.safetensors, and the packed data set they name",
        writes="scores.csv, metrics.csv, curves.npz and examples/ in RUN_DIR; for a run on tiles also "
        "metrics_full_size.csv",
    )
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a finished training")
    sub.add_argument("--maps", action="store_true", help="also write all anomaly maps, float32, to RUN_DIR/maps/")

    sub = commands.add(
        "metrics",
        metrics,
        "compute the seven metrics of one class",
        "maps.npy masks.npy --json",
        reads="anomaly maps and masks of one class, and optionally labels, as .npy files",
        writes="nothing; the metrics are printed, as fractions",
    )
    sub.add_argument("maps", type=Path, metavar="MAPS.npy", help="anomaly maps (N, H, W)")
    sub.add_argument("masks", type=Path, metavar="MASKS.npy", help="masks (N, H, W), anomalous where > 0")
    sub.add_argument("--labels", type=Path, metavar="LABELS.npy", help="image labels (N,); default: from the masks")
    sub.add_argument(
        "--definition",
        choices=["exact", "published"],
        default="exact",
        help="definition of the metrics (default: %(default)s)",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
