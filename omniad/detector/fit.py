"""From good images to a detector: index, pack, training or its replacement, and threshold, in one run folder."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from omniad.config import (
    DataSettings,
    RunSettings,
    Settings,
    SourceSettings,
    TileSettings,
    TrainingSettings,
    validate,
)
from omniad.data.download import unreachable
from omniad.data.fetch import fetch
from omniad.data.folders import LeftOut
from omniad.data.images import decode_image
from omniad.data.index import write_index
from omniad.data.layouts import own
from omniad.data.pack_writer import write_pack
from omniad.data.packs import Pack, open_pack
from omniad.data.weights import files_by_place, weights_file, weights_paths
from omniad.detector.announce import announce
from omniad.detector.detector import Detector
from omniad.detector.presets import DEFAULT, Chosen, choose
from omniad.detector.threshold import Threshold, images_for_threshold, make_threshold, write_threshold
from omniad.detector.tile_pack import tile_index, write_tile_pack
from omniad.detector.tiles import check_overlap
from omniad.devices import pick_device
from omniad.errors import UserError
from omniad.files import sha256_file
from omniad.models import build_model
from omniad.models.checkpoint import METHODS
from omniad.models.encoder import check_entries, read_entries
from omniad.names import name_problem
from omniad.runs.files import CONFIG, MODEL, PREPARED, STATE, THRESHOLD
from omniad.runs.provenance import load_run_settings
from omniad.training.train import train
from omniad.wording import count

RUN = "fit"  # the run's name in its config.yaml
STEPS = 5000  # of training, about, where no preset says it
EPOCHS = (10, 500)  # fewest and most; the paper trains for 500
QUANTILE = 0.99
HELD_OUT = 0.2  # share of a product's good images, for a method that can't score those it was trained on

log = logging.getLogger(__name__)


def fit(
    folder: str | Path,
    run_dir: str | Path,
    epochs: int | None = None,
    quantile: float = QUANTILE,
    weights: str | Path | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    preset: str = DEFAULT,
    method: str = "",
    config: Sequence[str | Path] = (),
    tile: int | None = None,
    overlap: int | None = None,
    scale: float | None = None,
) -> Detector:
    """Make a detector from good images. The same call resumes a killed fit, and returns quickly after a finished one.

    Writes, in `run_dir`: config.yaml, model.safetensors, history.csv, provenance.json as every training does;
    threshold.json; and prepared/, the images at the run's resolution, which only training and `omniad evaluate` need.

    Args:
        folder: a product's good images, a folder of such folders, or the layout of MVTec-AD, MVTec AD 2 or MVTec LOCO
            AD (see data/layouts/own.py).
        run_dir: a new folder, or one that this call began.
        epochs: for methods that train; by default so many that training takes about the preset's number of steps, at
            least 10 and at most 500.
        quantile: share of the good images that must not exceed the threshold, in (0, 1].
        weights: a file of the encoder's ImageNet weights; by default those of its package, or torchvision's, fetched
            when they are not there.
        seed: of all random draws.
        settings: of model, training and evaluation, in place of a preset's.
        preset: "fast", a memory of patches for any machine, or "paper" (see presets.py).
        method: a method other than the preset's default.
        config: files that change single settings of these.
        tile: side of the tiles that images are cut into, in pixels, the model's input size; by default each image
            is resized to the input.
        overlap: pixels that neighbouring tiles share, 32 by default.
        scale: of the images before they are cut, 1 by default.

    Returns:
        The detector, as `Detector(run_dir)` loads it.

    Raises:
        UserError: both settings and a preset are given, there is no such preset or method in it, the folder holds no
            good images, some can't be read, the weights can't be had, `run_dir` holds another run, there can't be such
            tiles of these images, or what training raises.
    """
    folder, run_dir = Path(folder), Path(run_dir)
    if not 0 < quantile <= 1:
        raise UserError(f"the threshold's quantile must be above 0 and at most 1, not {quantile}")
    if settings and (method or config or preset != DEFAULT):
        raise UserError("fit: give either settings, or a preset with its method and config")
    chosen = Chosen(settings, STEPS, settings.model.method) if settings else choose(preset, method, *config)
    run = _run_settings(folder, run_dir, chosen.settings, weights)
    run = run if tile is overlap is scale is None else _with_tiles(run, tile, overlap, scale)
    _check_run_dir(run_dir, run)
    own.read(run.source, LeftOut())  # before anything is fetched: is there an image?
    get_weights(run)
    if epochs and METHODS[run.model.method].training_free:
        log.info("%s does not train: --epochs has no effect", run.model.method)
    run, index, pack = _prepare(run, epochs, chosen.steps)
    device = pick_device()
    announce(run, index, pack, chosen.about, on_cpu=device.type == "cpu", begun=(run_dir / STATE).is_dir())
    train(run, seed, run_dir, device, pack=pack)
    (run_dir / THRESHOLD).unlink(missing_ok=True)  # an old one, if any: the detector is loaded without it
    detector = Detector(run_dir, device)
    detector.use(_write_threshold(detector, index, pack, quantile))
    if "test" in set(index["split"]):
        log.info("The folder has test images: `omniad evaluate %s` measures the detector on them.", run_dir)
    return detector


def _run_settings(folder: Path, run_dir: Path, settings: Settings, weights: str | Path | None) -> RunSettings:
    if not folder.is_dir():
        is_file = "is a file; name the folder with the good images"
        raise UserError(f"{folder}: {is_file if folder.exists() else 'no such folder'}")
    name = folder.resolve().name or "images"
    if problem := name_problem(name):
        raise UserError(f"{folder}: the folder's name must {problem}; rename it")
    model = settings.model if weights is None else settings.model.model_copy(update={"encoder_weights": str(weights)})
    held_out = 0.0 if METHODS[model.method].leaves_out else HELD_OUT
    return RunSettings(
        dataset=name,
        run=RUN,
        source=SourceSettings(title=name, layout="own", folder=str(folder), held_out=held_out),
        data=settings.data.model_copy(update={"prepared": str(run_dir / PREPARED)}),
        model=model,
        training=settings.training,
        evaluation=settings.evaluation,
    )


def _with_tiles(run: RunSettings, tile: int | None, overlap: int | None, scale: float | None) -> RunSettings:
    """The run on tiles of this side.

    Raises:
        UserError: no side is given, or there are no such tiles.
    """
    if tile is None:
        raise UserError("--overlap and --scale need tiles: also give the tiles' side (--tile 256)")
    data = validate(DataSettings, run.data.model_dump() | {"image_size": tile}, f"a tile of {tile} pixels", ("data",))
    given = {name: value for name, value in (("overlap", overlap), ("scale", scale)) if value is not None}
    tiles = validate(TileSettings, given, "fit", ("tiles",))
    check_overlap(tile, tiles.overlap)
    if run.training.evaluate_every:
        raise UserError(
            "training.evaluate_every: does not work with tiles, because test images stay whole; set it to 0"
        )
    return run.model_copy(update={"data": data, "tiles": tiles})


def _check_run_dir(run_dir: Path, run: RunSettings) -> None:
    """Refuse a folder that holds another run: its files would be lost."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file; name a folder for the run with --out")
    if not (run_dir / CONFIG).exists():
        return
    there = load_run_settings(run_dir)
    same_folder = Path(there.source.folder).resolve() == Path(run.source.folder).resolve()
    if (there.dataset, there.run) != (run.dataset, run.run) or not same_folder:
        raise UserError(
            f"{run_dir}: already holds the run '{there.run}' on {there.source.folder}; choose a new folder with --out"
        )


def get_weights(run: RunSettings) -> None:
    """Fetch the encoder's weights when they are published ones and not there.

    Raises:
        UserError: they can't be had (their address and place are told), or the file is not the one it should be.
    """
    known = files_by_place(run.data)
    for path in weights_paths(run.model, run.data):
        if path in known and not path.is_file():
            file = known[path]
            if problem := unreachable(file.urls[0]):
                raise UserError(
                    f"{file.title} are needed and can't be fetched ({problem}): get them from {file.urls[0]} and put "
                    f"the file at {path}, or name a file of encoder weights with --weights"
                )
            fetch(file)
    found = weights_file(run.model, run.data)
    if found is not None:  # another model's are refused now, not after the images were read
        with torch.device("meta"):
            encoder = build_model(run.model).encoder
        check_entries(encoder.state_dict(), encoder.own_entries(read_entries(found)), str(found))


def _prepare(run: RunSettings, epochs: int | None, steps: int) -> tuple[RunSettings, pd.DataFrame, Pack]:
    """Index and pack the images, unless they are; the run with the batch size and epochs for so many images.

    The index has a row an image, and so has the pack; or one for each tile of the training images.
    """
    index_csv = run.pack_folder.parent / "index.csv"
    index = write_index(run.source, index_csv)
    rows = tile_index(run, run.tiles, index) if run.tiles else index
    images = Counter(rows["split"])["train"]
    batch_size = min(run.training.batch_size, images)
    training = {"batch_size": batch_size, "epochs": epochs or default_epochs(steps, images // batch_size)}
    checked = validate(TrainingSettings, run.training.model_dump() | training, "fit", ("training",))
    try:
        pack = open_pack(run.pack_folder, rows)
    except UserError:  # none yet, or of other images
        if run.tiles:
            write_tile_pack(run, run.tiles, index_csv, rows)
        else:
            write_pack(run.source, index_csv, run.pack_folder, run.data.image_size, index)
        pack = open_pack(run.pack_folder, rows)
    return run.model_copy(update={"training": checked}), index, pack


def default_epochs(steps: int, steps_per_epoch: int) -> int:
    """So many that training takes about `steps` steps, within limits."""
    fewest, most = EPOCHS
    return min(max(round(steps / steps_per_epoch), fewest), most)


def _write_threshold(detector: Detector, index: pd.DataFrame, pack: Pack, quantile: float) -> Threshold:
    """From good images that the model has not seen, or leaves out (see `images_for_threshold`)."""
    rows = images_for_threshold(index, detector.model.leaves_out)
    if detector.tiles:
        scores, medians = _score_whole(detector, index["image"].iloc[rows["row"]].tolist(), rows["member"].tolist())
    else:
        scores, medians = _score_packed(detector, pack, rows)
    threshold = make_threshold(scores, medians, rows["class"].tolist(), quantile)
    threshold = threshold._replace(model_sha256=sha256_file(detector.run_dir / MODEL))
    write_threshold(detector.run_dir, threshold)
    as_new = bool((rows["member"].to_numpy() >= 0).any())
    good = f"{count(threshold.images, 'good image')}, "
    good += "each scored as if it were new" if as_new else "which the model has not seen"
    highest = threshold.threshold == scores.max()  # as of fewer than 100 images, with the default quantile
    made = f"the highest score of {good}" if highest else f"at least {100 * quantile:g} % of {good}, do not exceed it"
    log.info("threshold %.6g: %s", threshold.threshold, made)
    log.info("Next: `omniad predict %s IMAGES --out DIR`", detector.run_dir)
    return threshold


def _score_packed(detector: Detector, pack: Pack, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the images for the threshold, and medians of their maps, (N,) each."""
    most = detector.settings.evaluation.batch_size
    scores, medians = [], []
    for left_out, alike in rows.groupby(rows["member"] >= 0, sort=False):
        for start in range(0, len(alike), most):
            part = alike.iloc[start : start + most]
            members = part["member"].to_numpy() if left_out else None
            maps, found = detector.compute(pack.images[part["row"].to_numpy()], members)
            scores.append(found)
            medians.append(np.median(maps - detector.expected, axis=(1, 2)))
    return np.concatenate(scores), np.concatenate(medians)


def _score_whole(detector: Detector, images: list[str], members: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same of images that are cut into tiles."""
    scores, medians = [], []
    named = zip(images, members, strict=True)
    for image, member in tqdm(named, "threshold", len(images), unit="image", disable=not sys.stderr.isatty()):
        pixels = detector.pixels(decode_image(Path(detector.settings.source.folder, image)))
        anomaly_map, score = detector.compute_whole(pixels, member if member >= 0 else None)
        scores.append(score)
        medians.append(np.median(anomaly_map))
    return np.array(scores), np.array(medians)
