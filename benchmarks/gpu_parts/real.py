"""The paper's decoder on real images: `omniad train` and `evaluate` from folders in MVTec-AD's layout."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from omniad.config import SourceSettings, merge, validate
from omniad.config.settings import RunSettings
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.evaluation.evaluate import evaluate
from omniad.training.train import train

from .bench import TINY, Bench, Row, write_random_pack

# Rows of Tables II, III and V, then the default in faster arithmetic: trained while time is left.
MORE = ("no_learnable", "only_q", "q_q", "kv_kv", "kv_q", "global_only", "local_only")
METRICS = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AU-PRO")


def training(bench: Bench) -> Iterator[Row]:
    """The default run, then as many others as time allows; each resumes where an earlier call was cut off."""
    made = _prepare(bench)
    names = ("default", *MORE)
    took = 0.0
    for name in names:
        out = bench.folder / "runs" / name
        if not bench.dry and took > bench.seconds_left():
            return
        run = _settings(bench, name, made)
        start = time.monotonic()
        train(run, 0, out, bench.device)
        trained = time.monotonic() - start
        evaluate(out, bench.device)
        took = time.monotonic() - start
        yield _outcome(out, name, run, trained, took - trained)
        if bench.dry:
            return


def _prepare(bench: Bench) -> SourceSettings:
    """One folder of all classes, indexed and packed; random images in a dry run."""
    joined = bench.folder / "data"
    source = SourceSettings(title="real images", layout="mvtec", folder=str(joined))
    pack = bench.folder / "prepared" / "real" / str(bench.size)
    if not bench.data:
        write_random_pack(pack.parent, bench.size, {"one": (4, 2, 2), "two": (4, 2, 2)})
    elif not (pack / "pack.json").is_file():
        shutil.rmtree(joined, ignore_errors=True)
        joined.mkdir(parents=True)
        for folder in (each.resolve() for each in bench.data):
            classes = [folder] if (folder / "train").is_dir() else [each for each in folder.iterdir() if each.is_dir()]
            for each in classes:
                (joined / each.name).symlink_to(each)
        write_index(source, pack.parent / "index.csv")
        write_pack(source, pack.parent / "index.csv", pack, bench.size)
    return source


def _settings(bench: Bench, name: str, source: SourceSettings) -> RunSettings:
    """A configured run on these images, with what `--set` says laid over it."""
    base = bench.run(name)
    weights = str(bench.weights) if bench.weights else "random"
    values: dict[str, Any] = base.model_dump() | {"dataset": "real", "source": source.model_dump()}
    values["data"]["prepared"] = str(bench.folder / "prepared")
    values["model"] |= {"encoder_weights": weights, **(TINY if bench.dry else {})}
    values["training"] |= {"save_every_s": 60.0, **({"epochs": 2} if bench.dry else {})}
    for entry in bench.overlay:
        path, _, value = entry.partition("=")
        group, _, key = path.partition(".")
        values = merge(values, {group: {key: yaml.safe_load(value)}})
    return validate(RunSettings, values, "--set")


def _outcome(out: Path, name: str, run: RunSettings, trained: float, evaluated: float) -> Row:
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["class"] == "mean" and line["definition"] == "exact"]
    with (out / "history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    value = {line["metric"]: line["value"] for line in lines}
    return {
        "run": name,
        "epochs": run.training.epochs,
        "precision": run.training.precision,
        "graph": run.training.cuda_graph,
        **{metric: round(100 * float(value[metric]), 1) if value[metric] else None for metric in METRICS},
        "last loss": float(history[-1]["loss"]),
        "training s": round(trained, 1),
        "evaluation s": round(evaluated, 1),
    }
