"""The index of a data set: one CSV with one row per image, whatever the layout on disk.

Beside it, `index-files.json` has a hash of the sizes and times of all images and masks: files replaced under the same
names make new packs. What is trained then depends on the new packs' content alone, so that a data set that was only
copied, or touched, retrains nothing.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from omniad.config import SourceSettings
from omniad.data.counts import differences, expected_counts
from omniad.data.folders import LeftOut
from omniad.data.headers import Looked, look_at_files
from omniad.data.layouts import read_records
from omniad.data.layouts.record import SPLITS
from omniad.errors import UserError
from omniad.files import atomic_write, has_files, in_one_line
from omniad.names import MEAN, leaves_folder, name_problem
from omniad.wording import count, shown

COLUMNS = ["class", "split", "label", "defect", "image", "mask"]
TEXT_COLUMNS = [column for column in COLUMNS if column != "label"]
MEND = "Extract the data set again, or fix it by hand"
SHOWN = 20  # paths of one kind of problem in a message; all of them are in the file beside the index

log = logging.getLogger(__name__)


def write_index(source: SourceSettings, out_csv: Path) -> pd.DataFrame:
    """Read a data set's layout, check all headers and the counts, write the index, sorted by class, split and path.

    Raises:
        UserError: the data set is missing, its layout is not as described, or something is wrong with its files or
            counts. All problems are in the one message; where they are many, the rest are in `index-problems.txt`
            beside the index.
    """
    folder = Path(source.folder)
    if not has_files(folder):
        raise UserError(f"{source.title}: {folder}/ is missing or empty; docs/data.md says where to get its files")
    left_out = LeftOut()
    found = read_records(source, left_out)
    records = sorted(found, key=lambda record: (record.class_, record.split, record.image))
    index = pd.DataFrame(records, columns=pd.Index(COLUMNS))
    if problem := _wrong_row(index):
        raise UserError(f"{source.title}: {folder}: {problem}; fix the data set's list of images, or rename the folder")
    report = out_csv.with_name("index-problems.txt")
    report.unlink(missing_ok=True)
    looked = look_at_files(folder, ((record.image, record.mask) for record in records), own=source.layout == "own")
    problems = _group(_problems(source, index, looked))
    if problems:
        mend = "Remove or replace these files" if source.layout == "own" else MEND
        raise UserError(f"{source.title}: {_tell(problems, folder, report)} {mend}")
    with atomic_write(_files_note(out_csv)) as file:  # before the index, so that a kill between them makes packs again
        json.dump({"files": looked.files, "sha256": looked.sha256}, file)
    with atomic_write(out_csv) as file:
        index.to_csv(file, index=False, lineterminator="\n")
    images, classes = count(len(index), "image"), count(len(index["class"].unique()), "class", "classes")
    log.info("%s: %s of %s: %s", source.title, images, classes, out_csv)
    if left_out.reasons:
        log.warning("%s: left out: %s", source.title, left_out)
    return index


def read_index(file: Path) -> pd.DataFrame:
    """An index as a data frame: columns class, split, label (0 or 1), defect, image, mask ("" when there is none).

    Raises:
        UserError: it is missing or invalid: also if a class is not a valid file name or a path leaves the folder.
    """
    again = "remove it and run `snakemake --cores all data`"
    try:
        types: Any = {"label": "int64", **dict.fromkeys(TEXT_COLUMNS, "str")}
        index = pd.read_csv(file, dtype=types, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{file}: no such index; `snakemake --cores all data` makes it") from None
    except (ValueError, OverflowError, OSError, pd.errors.ParserError) as error:
        raise UserError(f"{file}: not an index ({in_one_line(error)}); {again}") from None
    if list(index.columns) != COLUMNS:
        raise UserError(f"{file}: the columns must be {','.join(COLUMNS)}; {again}")
    if problem := _wrong_row(index):
        raise UserError(f"{file}: {problem}; {again}")
    return index


def recorded_files(index_csv: Path) -> str:
    """The hash of the files' sizes and times when the index was made; "" where none is recorded."""
    try:
        return str(json.loads(_files_note(index_csv).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _files_note(index_csv: Path) -> Path:
    return index_csv.with_name(f"{index_csv.stem}-files.json")


def _wrong_row(index: pd.DataFrame) -> str:
    """What is wrong with an index, whoever made it; "" if nothing is."""
    if index.empty:
        return "it has no rows"
    for label in set(index["label"].unique().tolist()) - {0, 1}:
        return f"label {shown(label)}: must be 0 (normal) or 1 (anomalous)"
    for split in set(index["split"].unique().tolist()) - set(SPLITS):
        return f"split {shown(split)}: must be one of {', '.join(SPLITS)}"
    for column in ("class", "defect"):
        for name in sorted(index[column].unique().tolist()):
            if problem := name_problem(name):
                return f"{column} {shown(name)}: must {problem}"
    if MEAN in index["class"].unique():
        return f"class '{MEAN}': this name is reserved for the mean over classes"
    paths = chain(index["image"].tolist(), filter(None, index["mask"].tolist()))
    outside = next((path for path in paths if leaves_folder(path)), None)
    return "" if outside is None else f"path {shown(outside)}: must lie inside the data set's folder"


def _problems(source: SourceSettings, index: pd.DataFrame, looked: Looked) -> Iterator[tuple[str, str]]:
    """Kind and path, or kind and count, of everything that is wrong."""
    for path in sorted(set(index["image"][index["image"].duplicated()])):
        yield "listed more than once", path
    yield from looked.problems
    expected = expected_counts(source)
    if expected is None:
        if source.layout != "own":
            log.info("%s: no table of counts to compare with", source.title)
        return
    images = index[["class", "split", "label", "defect"]].itertuples(index=False, name=None)
    for line in differences(images, expected):
        yield "unexpected numbers of images", line


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
        f"{kind[0].upper()}{kind[1:]} ({len(lines)}): "
        + "; ".join(lines[:SHOWN])
        + ("; ..." if len(lines) > SHOWN else "")
        for kind, lines in problems.items()
    ]
    where = f" All of them are in {report}." if many else ""
    return f"{folder}/ is incomplete or damaged. " + ". ".join(told) + f".{where}"
