"""The index of a data set: one CSV, one row an image, whatever the layout on disk."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, UnidentifiedImageError

from omniad.config import SourceSettings
from omniad.data.counts import differences, expected_counts
from omniad.data.layouts import READERS
from omniad.errors import UserError
from omniad.files import atomic_write, has_files

COLUMNS = ["class", "split", "label", "defect", "image", "mask"]
TEXT_COLUMNS = [column for column in COLUMNS if column != "label"]
MEND = "Extract the data set anew, or mend it by hand"
SHOWN = 20  # paths of one kind of problem in a message; all of them are in the file beside the index

log = logging.getLogger(__name__)


def write_index(source: SourceSettings, out_csv: Path) -> None:
    """Read a data set's layout, check all headers and the counts, write the index, sorted by class, split and path.

    Raises:
        UserError: the data set is missing, its layout is not as described, or something is wrong with its files or
            counts. All problems are in the one message; where they are many, the rest are in `index-problems.txt`
            beside the index.
    """
    folder = Path(source.folder)
    if not has_files(folder):
        raise UserError(f"{source.title}: {folder}/ is missing or empty; docs/data.md tells how its files get there")
    records = sorted(READERS[source.layout](source), key=lambda record: (record.class_, record.split, record.image))
    index = pd.DataFrame(records, columns=pd.Index(COLUMNS))
    report = out_csv.with_name("index-problems.txt")
    report.unlink(missing_ok=True)
    problems = _group(_problems(source, index))
    if problems:
        mend = "Remove or replace these files" if source.layout == "own" else MEND
        raise UserError(f"{source.title}: {_tell(problems, folder, report)} {mend}")
    with atomic_write(out_csv) as file:
        index.to_csv(file, index=False, lineterminator="\n")
    classes = len(set(index["class"]))
    what = f"{classes} class{'' if classes == 1 else 'es'}"
    log.info("%s: %d images, %s: %s", source.title, len(index), what, out_csv)


def read_index(file: Path) -> pd.DataFrame:
    """An index as a data frame: columns class, split, label (0 or 1), defect, image, mask ("" when there is none)."""
    try:
        types: Any = {"label": "int64", **dict.fromkeys(TEXT_COLUMNS, "str")}
        index = pd.read_csv(file, dtype=types, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{file}: no such index; `snakemake --cores all data` makes it") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{file}: not an index ({error}); remove it and run `snakemake --cores all data`") from None
    if list(index.columns) != COLUMNS:
        raise UserError(
            f"{file}: the columns must be {','.join(COLUMNS)}; remove it and run `snakemake --cores all data`"
        )
    return index


def _problems(source: SourceSettings, index: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Kind and path, or kind and count, of everything that is wrong."""
    for path in sorted(set(index["image"][index["image"].duplicated()])):
        yield "named more than once", path
    pairs = zip(index["image"], index["mask"], strict=True)
    yield from header_problems(Path(source.folder), pairs, deep=source.layout == "own")
    expected = expected_counts(source)
    if expected is None:
        if source.layout != "own":
            log.info("%s: there is no table of counts to compare with", source.title)
        return
    images = index[["class", "split", "label", "defect"]].itertuples(index=False, name=None)
    for line in differences(images, expected):
        yield "other numbers of images than expected", line


def _group(problems: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for kind, what in problems:
        grouped[kind].append(what)
    return grouped


def _tell(problems: dict[str, list[str]], folder: Path, report: Path) -> str:
    """All problems, kind by kind; of long lists the first, with the rest in a file."""
    many = any(len(lines) > SHOWN for lines in problems.values())
    if many:
        with atomic_write(report) as file:
            file.writelines(f"{kind}\t{what}\n" for kind, lines in problems.items() for what in lines)
    told = [
        f"{len(lines)} {kind}: " + "; ".join(lines[:SHOWN]) + ("; ..." if len(lines) > SHOWN else "")
        for kind, lines in problems.items()
    ]
    where = f" All of them are in {report}." if many else ""
    return f"{folder}/ is not whole. " + ". ".join(told) + f".{where}"


DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits: PIL would cut them off at 255
BATCH = 256


def header_problems(folder: Path, pairs: Iterable[tuple[str, str]], deep: bool = False) -> Iterator[tuple[str, str]]:
    """Kind and path of everything that is wrong with a data set's files.

    Args:
        folder: the data set's.
        pairs: (image, mask), relative to it; mask "" where there is none.
        deep: images of more than 8 bits are no problem.
    """
    pairs = list(pairs)
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:  # a disk is waited for, not computed with
        for found in pool.map(
            lambda batch: [problem for image, mask in batch for problem in _check(folder, image, mask, deep)], batches
        ):
            yield from found


def _check(folder: Path, image: str, mask: str, deep: bool) -> Iterator[tuple[str, str]]:
    problem, size = _look(f"{folder}/{image}", deep)
    if problem:
        yield problem, image
    if not mask:
        return
    mask_problem, mask_size = _look(f"{folder}/{mask}", deep=True)
    if mask_problem:
        yield mask_problem, mask
    elif size and size != mask_size:
        yield "mask of another size than its image", f"{mask} ({_by(mask_size)}, not {_by(size)})"


def _look(file: str, deep: bool) -> tuple[str, tuple[int, int] | None]:
    """What is wrong with a file ("" for nothing), and its width and height."""
    try:
        with Image.open(file) as image:
            if image.mode in DEEP_MODES and not deep:
                return "more than 8 bits a channel, convert to 8", image.size
            return "", image.size
    except (FileNotFoundError, NotADirectoryError):
        return "missing", None
    except UnidentifiedImageError:
        empty = Path(file).stat().st_size == 0
        return "empty" if empty else "not readable as an image", None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what PIL raises for broken headers
        return "not readable as an image", None


def _by(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
