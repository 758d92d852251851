"""Good images to a detector: index, pack, training and a threshold, all in one run folder."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from omniad.config import RunSettings, Settings, SourceSettings, load_settings
from omniad.data.download import unreachable
from omniad.data.fetch import fetch
from omniad.data.index import read_index, write_index
from omniad.data.layouts import own
from omniad.data.pack_writer import write_pack
from omniad.data.packs import Pack, open_pack
from omniad.data.weights import weight_files, weights_file, weights_paths
from omniad.detector.detector import Detector
from omniad.detector.threshold import make_threshold, write_threshold
from omniad.devices import pick_device
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.encoder import load_weights
from omniad.runs.files import CONFIG, PREPARED
from omniad.runs.provenance import load_run_settings
from omniad.training.cost import cpu_hours
from omniad.training.train import train
from omniad.wording import count, duration

RUN = "fit"  # the run's name in its config.yaml
STEPS = 5000  # of training, about: the paper's 113,000 for 15 products are 7,500 each
EPOCHS = (10, 500)  # fewest and most; the paper trains for 500
QUANTILE = 0.99

log = logging.getLogger(__name__)


def fit(
    folder: str | Path,
    run_dir: str | Path,
    epochs: int | None = None,
    quantile: float = QUANTILE,
    weights: str | Path | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Detector:
    """Train a detector on good images. Killed, the same call goes on; finished, it ends soon with the same result.

    Writes, in `run_dir`: config.yaml, model.safetensors, history.csv, provenance.json as every training does;
    threshold.json; and prepared/, the images at the run's resolution, which only training and `omniad evaluate` need.

    Args:
        folder: a product's good images, a folder of such folders, or MVTec-AD's layout (see data/layouts/own.py).
        run_dir: a new folder, or one that this call began.
        epochs: by default so many that it takes about 5,000 steps, at least 10 and at most 500.
        quantile: share of the held-out good images that the threshold lets pass, in (0, 1].
        weights: a file of the encoder's ImageNet weights; by default torchvision's, fetched when they are not there.
        seed: of the weights, the order of the images and the jitter.
        settings: of model, training and evaluation; by default the paper's.

    Returns:
        The detector, as `Detector(run_dir)` loads it.

    Raises:
        UserError: the folder holds no good images, some can't be read, the weights can't be had, `run_dir` holds
            another run, or what training raises.
    """
    folder, run_dir = Path(folder), Path(run_dir)
    if not 0 < quantile <= 1:
        raise UserError(f"the threshold's quantile must be above 0 and at most 1, not {quantile}")
    run = _run_settings(folder, run_dir, settings or load_settings(), weights)
    _check_run_dir(run_dir, run)
    own.read(run.source)  # before anything is fetched: is there an image?
    get_weights(run)
    run, pack = _prepare(run, epochs)
    device = pick_device()
    _announce(run, pack, on_cpu=device.type == "cpu")
    train(run, seed, run_dir, device)
    _write_threshold(Detector(run_dir, device), pack, quantile)
    if "test" in set(pack.index["split"]):
        log.info("It came with test images: `omniad evaluate %s` measures the detector on them.", run_dir)
    return Detector(run_dir, device)


def _run_settings(folder: Path, run_dir: Path, settings: Settings, weights: str | Path | None) -> RunSettings:
    if not folder.is_dir():
        is_file = "is a file; name the folder that holds the good images"
        raise UserError(f"{folder}: {is_file if folder.exists() else 'no such folder'}")
    name = folder.resolve().name
    model = settings.model if weights is None else settings.model.model_copy(update={"encoder_weights": str(weights)})
    return RunSettings(
        dataset=name,
        run=RUN,
        source=SourceSettings(title=name, layout="own", folder=str(folder)),
        data=settings.data.model_copy(update={"prepared": str(run_dir / PREPARED)}),
        model=model,
        training=settings.training,
        evaluation=settings.evaluation,
    )


def _check_run_dir(run_dir: Path, run: RunSettings) -> None:
    """Refuse a folder that holds another run: its files would be lost."""
    if not (run_dir / CONFIG).exists():
        return
    there = load_run_settings(run_dir)
    if (there.dataset, there.run, Path(there.source.folder)) != (run.dataset, run.run, Path(run.source.folder)):
        raise UserError(
            f"{run_dir}: already holds the run '{there.run}' on {there.source.folder}; name a new folder with --out"
        )


def get_weights(run: RunSettings) -> None:
    """Fetch the encoder's weights when they are published ones and not there.

    Raises:
        UserError: they can't be had (their address and place are told), or the file is not the one it should be.
    """
    known = {file.path: file for file in weight_files(run.data).values()}
    for path in weights_paths(run.model, run.data):
        if path in known and not path.is_file():
            file = known[path]
            if problem := unreachable(file.urls[0]):
                raise UserError(
                    f"{file.title} are needed and can't be fetched ({problem}): get them from {file.urls[0]} and put "
                    f"the file at {path}, or name the encoder's with --weights"
                )
            fetch(file)
    found = weights_file(run.model, run.data)
    if found is not None:
        load_weights(build_model(run.model).encoder, found)  # told now if they are another model's


def _prepare(run: RunSettings, epochs: int | None) -> tuple[RunSettings, Pack]:
    """Index and pack the images, unless they are; the run with the batch size and epochs for so many images."""
    index_csv = run.pack_folder.parent / "index.csv"
    write_index(run.source, index_csv)
    images = Counter(read_index(index_csv)["split"])["train"]
    batch_size = min(run.training.batch_size, images)
    training = {"batch_size": batch_size, "epochs": epochs or default_epochs(images // batch_size)}
    try:
        pack = open_pack(run.pack_folder)
    except UserError:  # none yet, or of other images
        write_pack(run.source, index_csv, run.pack_folder, run.data.image_size)
        pack = open_pack(run.pack_folder)
    return run.model_copy(update={"training": run.training.model_copy(update=training)}), pack


def default_epochs(steps_per_epoch: int) -> int:
    """So many that training takes about STEPS steps, within limits."""
    fewest, most = EPOCHS
    return min(max(round(STEPS / steps_per_epoch), fewest), most)


def _announce(run: RunSettings, pack: Pack, on_cpu: bool) -> None:
    """How much is about to be done, and about how long it takes."""
    splits = Counter(pack.index["split"])
    images, epochs = splits["train"], run.training.epochs
    steps = epochs * (images // run.training.batch_size)
    products = pack.index.loc[pack.index["split"] == "train", "class"].nunique()
    time = (
        f"roughly {duration(3600 * cpu_hours(run, images))} on this CPU"
        if on_cpu
        else "how long it takes is told after the first epoch"
    )
    log.info(
        "%d good images of %s to train on, %d held out for the threshold; %d epochs, %d steps: %s",
        images,
        count(products, "product"),
        splits["validation"],
        epochs,
        steps,
        time,
    )


def _write_threshold(detector: Detector, pack: Pack, quantile: float) -> None:
    rows: pd.DataFrame = pack.index.loc[pack.index["split"] == "validation"]
    members, batch_size = rows.index.to_numpy(), detector.settings.evaluation.batch_size
    scores, medians = [], []
    for start in range(0, len(members), batch_size):
        maps, found = detector.compute(pack.images[members[start : start + batch_size]])
        scores.append(found)
        medians.append(np.median(maps, axis=(1, 2)))
    threshold = make_threshold(np.concatenate(scores), np.concatenate(medians), rows["class"].tolist(), quantile)
    write_threshold(detector.run_dir, threshold)
    log.info(
        "threshold %.6g: %g %% of %d held-out good images score at most that. Next: "
        "`omniad predict %s IMAGES --out DIR`",
        threshold.threshold,
        100 * quantile,
        threshold.images,
        detector.run_dir,
    )
