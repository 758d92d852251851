"""Images to scores, maps and overlays on disk."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from omniad.detector.detector import Detector, Prediction
from omniad.detector.inputs import find_images, output_names
from omniad.detector.overlay import overlay
from omniad.errors import UserError
from omniad.files import atomic_write
from omniad.parallel import in_order

WRITERS = 4  # threads: drawing and compressing release the interpreter's lock, and the disk is waited for
SHOWN = 20  # unreadable images in the message; all of them are in skipped.csv

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A line of scores.csv."""

    path: str
    score: float
    verdict: str
    name: str  # of its files in maps/ and overlays/


def predict(
    detector: Detector | str | Path,
    images: Iterable[str | Path],
    out: str | Path | None = None,
    full_size: bool = False,
    each: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Score images and write what came of them.

    Writes, in `out`: scores.csv (path, score, verdict, name); maps/<name>.npy, float32 at the run's resolution;
    overlays/<name>.png; with `full_size` also full_size_maps/<name>.npy, at the image's own size; and skipped.csv
    (path, reason) when there are images that can't be read.

    Args:
        detector: a run folder, or one that is loaded.
        images: files and folders; what lies in `out` is left out.
        out: where results go; None computes the scores alone.
        full_size: also write the maps at each image's own size.
        each: called with every row as soon as it is known.

    Returns:
        A row an image, in order.

    Raises:
        UserError: a place does not exist, or the disk refuses a write; at the very end, when all others are done: some
            images can't be read.
    """
    out = None if out is None else Path(out)
    files = find_images(images, leave_out=out)
    detector = detector if isinstance(detector, Detector) else Detector(detector)
    names = dict(zip(files, output_names(files), strict=True))
    skipped: dict[Path, str] = {}
    rows: list[Row] = []

    def finish(prediction: Prediction) -> Row:
        name = names[prediction.path]
        if out is not None:
            _write_images(detector, prediction, out, name, full_size)
        return Row(str(prediction.path), prediction.score, prediction.verdict, name)

    with (
        ThreadPoolExecutor(max_workers=WRITERS) as pool,  # files are written while the next batch is computed
        tqdm(total=len(files), desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        for row in in_order(pool, finish, detector.predict(files, skipped), 2 * WRITERS):
            rows.append(row)
            if each is not None:
                each(row)
            bar.update(len(rows) + len(skipped) - bar.n)
    if out is not None:
        _write_tables(out, rows, skipped)
    if rows:
        _tell(detector, rows, out)
    if skipped:
        some = [f"{path} ({reason})" for path, reason in list(skipped.items())[:SHOWN]]
        more = f"; ... all of them are in {out / 'skipped.csv'}" if out and len(skipped) > SHOWN else ""
        raise UserError(
            f"{len(skipped)} of {len(files)} images can't be read and were skipped: {'; '.join(some)}{more}"
        )
    return rows


def _write_images(detector: Detector, prediction: Prediction, out: Path, name: str, full_size: bool) -> None:
    with atomic_write(out / "maps" / f"{name}.npy", "wb") as file:
        np.save(file, prediction.map)
    with atomic_write(out / "overlays" / f"{name}.png", "wb") as file:
        overlay(detector, prediction).save(file, "PNG", compress_level=1)  # a little larger, much faster
    if full_size:
        with atomic_write(out / "full_size_maps" / f"{name}.npy", "wb") as file:
            np.save(file, prediction.full_size_map())


def _write_tables(out: Path, rows: list[Row], skipped: dict[Path, str]) -> None:
    with atomic_write(out / "scores.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        # Nine digits tell every float32 from its neighbours.
        writer.writerows((row.path, f"{row.score:.9g}", row.verdict, row.name) for row in rows)
    if not skipped:
        (out / "skipped.csv").unlink(missing_ok=True)
        return
    with atomic_write(out / "skipped.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows(skipped.items())


def _tell(detector: Detector, rows: list[Row], out: Path | None) -> None:
    where = f"; results are in {out}/" if out else ""
    if detector.threshold is None:
        log.info("%d images scored; no threshold is known, so there are no verdicts%s", len(rows), where)
    else:
        anomalous = sum(row.verdict == "anomalous" for row in rows)
        log.info("%d images, %d anomalous (score above %.6g)%s", len(rows), anomalous, detector.threshold, where)
