"""Score images and write scores, maps and overlays to disk."""

from __future__ import annotations

import csv
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from omniad.data.folders import PREDICTED_FOLDERS, LeftOut, is_predicted, readable
from omniad.detector.detector import Detector, Prediction
from omniad.detector.inputs import find_images, output_names
from omniad.detector.overlay import overlay
from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write
from omniad.parallel import in_order
from omniad.wording import count

WRITERS = 4  # threads: drawing and compressing release the interpreter's lock, and the disk is waited for
SCORES, SKIPPED = "scores.csv", "skipped.csv"
RESULT = re.compile(r"\.(npy|png)(\.\w+)?$")  # of a map or overlay; or what a kill left of one, with more behind it
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
    images: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    full_size: bool = False,
    each: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Score images and write the results.

    Writes, in `out`: scores.csv (path, score, verdict, name), row by row as they come, so that whatever ends this call
    leaves those that are done; maps/<name>.npy, float32 at the run's resolution; overlays/<name>.png; with `full_size`
    also full_size_maps/<name>.npy, at the image's own size; and skipped.csv (path, reason) when there are images that
    can't be read. What an earlier call left there is removed first.

    Args:
        detector: a run folder, or one that is loaded.
        images: files and folders; what lies in `out`, or is an earlier call's result, is left out.
        out: folder for the results; None computes only the scores.
        full_size: also write the maps at each image's own size.
        each: called with every row as soon as it is known.

    Returns:
        A row an image, in order.

    Raises:
        UserError: a place does not exist, or the disk refuses a write; at the very end, when all others are done: some
            images can't be read.
    """
    out, left_out = None if out is None else Path(out), LeftOut()
    files = find_images(images, out, left_out)
    detector = detector if isinstance(detector, Detector) else Detector(detector)
    if left_out.reasons:
        log.info("left out: %s", left_out)
    skipped = dict(left_out.odd)
    rows: list[Row] = []
    with _tables(out, skipped) as write:
        try:
            for row in _rows(detector, files, out, full_size, skipped):
                write(row)
                rows.append(row)
                if each is not None:
                    each(row)
        except (KeyboardInterrupt, SystemExit):
            kept = f"; their results are in {out}/. The same command starts over; choose another --out to keep them"
            log.warning("Stopped after %d of %d images%s", len(rows), len(files), kept if out else "")
            raise
    if rows:
        _tell(detector, rows, out)
    if skipped:
        some = [f"{readable(path)} ({reason})" for path, reason in list(skipped.items())[:SHOWN]]
        more = f"; ... all are listed in {out / SKIPPED}" if out and len(skipped) > SHOWN else ""
        number = len(files) + len(left_out.odd)
        raise UserError(
            f"{len(skipped)} of {number} images could not be read and were skipped: {'; '.join(some)}{more}"
        )
    return rows


def _rows(
    detector: Detector, files: list[Path], out: Path | None, full_size: bool, skipped: dict[Path, str]
) -> Iterator[Row]:
    """A row an image, when its maps are written."""
    names = dict(zip(files, output_names(files), strict=True))

    def finish(prediction: Prediction) -> Row:
        name = names[prediction.path]
        if out is not None:
            _write_images(detector, prediction, out, name, full_size)
        return Row(str(prediction.path), prediction.score, prediction.verdict, name)

    ahead = 1 if detector.tiles else 2 * WRITERS  # large maps don't gather in memory
    with (
        ThreadPoolExecutor(max_workers=WRITERS) as pool,  # files are written while the next batch is computed
        tqdm(total=len(files), desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        for number, row in enumerate(in_order(pool, finish, detector.score(files, skipped), ahead), start=1):
            yield row
            bar.update(number + len(skipped) - bar.n)


@contextmanager
def _tables(out: Path | None, skipped: dict[Path, str]) -> Iterator[Callable[[Row], None]]:
    """Takes the rows of scores.csv; at the end, whatever that is, skipped.csv is written."""
    if out is None:
        yield lambda row: None
        return
    _remove_earlier(out)
    scores = out / SCORES
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = scores.open("w", encoding="utf-8", newline="", buffering=1)  # each line is written at once
    except OSError as error:
        raise cannot_write(scores, error) from None

    def write(row: Iterable[object]) -> None:
        try:
            csv.writer(file, lineterminator="\n").writerow(row)
        except OSError as error:
            raise cannot_write(scores, error) from None

    with file:
        write(Row._fields)
        try:
            # Nine digits tell every float32 from its neighbours.
            yield lambda row: write((row.path, f"{row.score:.9g}", row.verdict, row.name))
        finally:
            if skipped:
                _write_skipped(out / SKIPPED, skipped)


def _write_skipped(file: Path, skipped: dict[Path, str]) -> None:
    with atomic_write(file) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows((readable(path), reason) for path, reason in skipped.items())


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier call wrote, even in part: its maps must not be mixed with new scores."""
    folders = [out / name for name in PREDICTED_FOLDERS if is_predicted(out / name)]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir() if RESULT.search(file.name)]
    try:
        for file in (*files, out / SKIPPED):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from None


def _write_images(detector: Detector, prediction: Prediction, out: Path, name: str, full_size: bool) -> None:
    with atomic_write(out / "maps" / f"{name}.npy", "wb") as file:
        np.save(file, prediction.map)
    with atomic_write(out / "overlays" / f"{name}.png", "wb") as file:
        overlay(detector, prediction).save(file, "PNG", compress_level=1)  # a little larger, much faster
    if full_size:
        with atomic_write(out / "full_size_maps" / f"{name}.npy", "wb") as file:
            np.save(file, prediction.full_size_map())


def _tell(detector: Detector, rows: list[Row], out: Path | None) -> None:
    where = f"; results are in {out}/" if out else ""
    if detector.threshold is None:
        log.info("%s scored; without a threshold there are no verdicts%s", count(len(rows), "image"), where)
    else:
        anomalous = sum(row.verdict == "anomalous" for row in rows)
        told = count(len(rows), "image")
        log.info("%s, %d anomalous (score above %.6g)%s", told, anomalous, detector.threshold, where)
