"""Evaluation of a run folder: test images -> anomaly maps -> metrics, with one class in memory at a time.

Writes, in the run folder:
- scores.csv (image, class, label, score): each test image's score;
- metrics.csv (class, metric, definition, value, reason, spread): fractions, empty where undefined, with the reason.
  Class "mean" is the plain mean over classes, undefined as soon as one class is. `spread` is the standard deviation
  over several draws of what is random in inference (the value is the first draw's); empty where nothing
  is drawn;
- curves.npz: "<class>/<curve>", (2, at most 512): x and y of image_roc, image_pr, pixel_roc, pixel_pr and pro (exact);
- examples/<class>.npz: see examples.py; maps/<class>.npy (N, S, S) float32, only when asked for, in scores.csv's order;
- metrics_full_size.csv: of a run on tiles (detector/evaluate.py), as metrics.csv, at the images' own size.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from omniad.config import RunSettings
from omniad.data.packs import PUBLISHED, Pack, normalise, open_pack, read_rows
from omniad.devices import pick_device
from omniad.energy import EnergyMeter
from omniad.errors import UserError
from omniad.evaluation.batches import Batches
from omniad.evaluation.examples import pick_examples
from omniad.files import atomic_write, sha256_file
from omniad.metrics.definitions import DEFINITIONS, METRICS, ClassResult, Definition
from omniad.metrics.from_maps import evaluate_class
from omniad.models import Method, load_model
from omniad.models.anomaly_map import smooth
from omniad.models.precision import arithmetic
from omniad.names import MEAN
from omniad.runs.artifacts import Example, write_curves, write_examples, write_scores
from omniad.runs.files import MAPS, METRICS_FULL_SIZE, MODEL
from omniad.runs.files import METRICS as METRICS_FILE
from omniad.runs.measurements import write_metrics
from omniad.runs.provenance import hardware, load_run_settings, peak_memory_mib, read_provenance, write_provenance
from omniad.runs.weights import measured_others, remove_measured

log = logging.getLogger(__name__)


class OfClass(NamedTuple):
    """The result for a class's test images."""

    draws: list[ClassResult]  # its results, one a draw
    maps: np.ndarray  # (N, S, S) float32, the first draw's
    examples: list[Example]
    full_size: ClassResult | None = None  # measured at the images' own size, where that is done


@dataclass(frozen=True)
class Evaluated:
    """One class: its results, one a draw, and its images' index rows."""

    name: str
    draws: list[ClassResult]
    rows: pd.DataFrame
    full_size: ClassResult | None = None


def evaluate(run_dir: Path, device: torch.device | None = None, keep_maps: bool = False) -> None:
    """Score a run's test images and write scores.csv, metrics.csv, curves.npz and examples/ into its folder.

    Args:
        run_dir: a finished run: `config.yaml` and `model.safetensors`. Its pack is found through the configuration.
        device: the GPU when there is one, by default.
        keep_maps: also write all anomaly maps to maps/.

    Raises:
        UserError: a file is missing or damaged, an anomaly map is not finite, the folder cannot be written, the weights
            were replaced meanwhile, it is a run on tiles.
    """
    device = device or pick_device()
    settings = load_run_settings(run_dir)
    if settings.tiles:
        raise UserError(
            f"{run_dir}: a run on tiles; `omniad evaluate`, or omniad.detector.evaluate, scores whole images"
        )
    pack = open_pack(settings.pack_folder)
    model = load_model(run_dir, device)
    batches = Batches(settings.evaluation.batch_size, device)

    def of_class(rows: pd.DataFrame) -> OfClass:
        draws, maps = _evaluate_draws(model, settings, pack, rows, batches)
        return OfClass(draws, maps, pick_examples(rows, pack, maps, draws[0].image_scores))

    classes = evaluate_with(of_class, run_dir, pack.index, device, keep_maps)
    tell_means(str(run_dir / METRICS_FILE), [each.draws[0] for each in classes])


def evaluate_with(
    of_class: Callable[[pd.DataFrame], OfClass],
    run_dir: Path,
    index: pd.DataFrame,
    device: torch.device,
    keep_maps: bool,
) -> list[Evaluated]:
    """Call `of_class` with the index's rows of each class's test images, and write what comes of them."""
    clock, meter = time.perf_counter(), EnergyMeter(device)
    weights = sha256_file(run_dir / MODEL)
    if measured_others(run_dir, read_provenance(run_dir), thorough=True):
        remove_measured(run_dir)
    classes = list(_evaluate_classes(of_class, run_dir, index, keep_maps))
    if sha256_file(run_dir / MODEL) != weights:
        raise UserError(f"{run_dir / MODEL}: changed during the evaluation; evaluate the run again")
    write_provenance(
        run_dir,
        evaluation={
            "model_sha256": weights,
            "wall_s": round(time.perf_counter() - clock, 2),
            "hardware": hardware(device),
            "peak_memory_mib": peak_memory_mib(device),
            "images": sum(len(each.rows) for each in classes),
            **({"energy_j": round(meter.joules(), 2)} if meter.counts else {}),
        },
    )
    write_scores(run_dir, (row for each in classes for row in _scored(each)))
    write_curves(run_dir, {each.name: each.draws[0].curves for each in classes})
    full_size = [replace(each, draws=[each.full_size]) for each in classes if each.full_size]
    if full_size:
        write_metrics(run_dir, _all_metric_lines(full_size), METRICS_FULL_SIZE)
    write_metrics(run_dir, _all_metric_lines(classes))  # last: its presence means that all others are there
    return classes


def tell_means(where: str, results: list[ClassResult]) -> None:
    """Log the means over classes of the exact metrics, in percent."""
    means = {name: float(np.mean([one.metrics["exact"].fractions[name] for one in results])) for name in METRICS}
    told = (f"{name} {'undefined' if math.isnan(mean) else f'{100 * mean:.1f}'}" for name, mean in means.items())
    log.info("%s: %s", where, ", ".join(told))


def _evaluate_classes(
    of_class: Callable[[pd.DataFrame], OfClass], run_dir: Path, index: pd.DataFrame, keep_maps: bool
) -> Iterator[Evaluated]:
    test = index.loc[index["split"] == "test"]
    names = sorted(set(test["class"]))
    if not names:
        raise UserError(f"{run_dir}: no test images in the index; put some into the data set's test folders")
    with tqdm(total=len(test), desc=f"evaluate {run_dir}", unit="image", disable=not sys.stderr.isatty()) as bar:
        for number, name in enumerate(names, start=1):
            clock = time.perf_counter()
            rows = test.loc[test["class"] == name]
            draws, maps, examples, full_size = of_class(rows)
            write_examples(run_dir, name, examples)
            if keep_maps:
                with atomic_write(run_dir / MAPS / f"{name}.npy", "wb") as file:
                    np.save(file, maps)
            bar.update(len(rows))
            if bar.disable:
                seconds = time.perf_counter() - clock
                log.info("%s (%d of %d): %d images, %.1f s", name, number, len(names), len(rows), seconds)
            yield Evaluated(name, draws, rows, full_size)


def _evaluate_draws(
    model: Method, settings: RunSettings, pack: Pack, rows: pd.DataFrame, batches: Batches
) -> tuple[list[ClassResult], np.ndarray]:
    """A class's results, one a draw of what is random (one if nothing is), and the first draw's maps."""
    members = rows.index.to_numpy()
    masks, published = pack.masks(members), pack.masks(members, PUBLISHED)
    labels, names = rows["label"].to_numpy(), rows["image"].tolist()
    maps, results = np.empty(0), []
    draws = model.evaluated_draws if model.draws else 1
    for draw in reversed(range(draws)):  # the first draw last, so that its maps are the ones left
        model.seed_draws(draw)
        del maps  # before the next ones are made
        maps, scores = compute_maps(model, pack.images, members, settings, batches)
        results.append(evaluate_class(maps, masks, labels, published, scores=scores, names=names, curves=draw == 0))
    return results[::-1], maps


@torch.inference_mode()
def compute_maps(
    model: Method, images: np.ndarray, members: np.ndarray, settings: RunSettings, batches: Batches
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (len(members), S, S) and scores (len(members),), float32, of some of the images (N, S, S, 3), in batches."""
    size = images.shape[1]
    maps, scores = np.empty((len(members), size, size), np.float32), np.empty(len(members), np.float32)

    def compute(rows: slice) -> None:
        batch = normalise(read_rows(images, members[rows])).to(batches.device)  # (B, 3, S, S)
        batch_maps = smooth(model.anomaly_maps(model.encode(batch), size), settings.evaluation.sigma)
        maps[rows] = batch_maps.cpu().numpy()
        scores[rows] = model.image_scores(batch_maps).cpu().numpy()

    with arithmetic("fp32", batches.device):
        batches.run(len(members), compute)
    return maps, scores


def _scored(each: Evaluated) -> Iterator[tuple[str, str, int, float]]:
    """A class's rows of scores.csv."""
    rows, scores = each.rows, each.draws[0].image_scores
    return zip(rows["image"], rows["class"], rows["label"], scores, strict=True)


def _all_metric_lines(classes: list[Evaluated]) -> Iterator[tuple]:
    for definition in DEFINITIONS:
        for metric in METRICS:
            yield from _metric_lines(metric, definition, classes)


def _metric_lines(metric: str, definition: Definition, classes: list[Evaluated]) -> Iterator[tuple]:
    """One metric's lines, a class each and their mean."""
    table = []  # (classes, draws)
    undefined = []
    for each in classes:
        measured = [draw.metrics[definition] for draw in each.draws]
        table.append([one.fractions[metric] for one in measured])
        reason = measured[0].reasons.get(metric, "")
        undefined += [each.name] if reason else []
        yield each.name, metric, definition, table[-1][0], reason, _spread(table[-1])
    mean = np.mean(table, axis=0)  # (draws,), NaN as soon as one class's is
    reason = f"undefined for {', '.join(undefined)}" if undefined else ""
    yield MEAN, metric, definition, float(mean[0]), reason, _spread(mean)


def _spread(values: Sequence[float] | np.ndarray) -> float:
    """Standard deviation over draws; NaN where there is one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
