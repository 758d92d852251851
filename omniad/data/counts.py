"""How many images a data set should have, and how what was found differs."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from omniad.config import CONFIG_FOLDER, SourceSettings, known
from omniad.errors import UserError
from omniad.wording import count

COLUMNS = ["class", "split", "defect", "images"]
ANY_DEFECT = "anomaly"  # in a table of counts: all kinds of defect together

Counts = Mapping[tuple[str, str, str], int]  # (class, split, defect) -> images


def expected_counts(source: SourceSettings) -> Counts | None:
    """The numbers of images of a data set as it is configured; None without a table of counts, and for a miniature.

    Raises:
        UserError: the table is missing or malformed, or does not have a class that is chosen.
    """
    counts = None if source.miniature else read_counts(source.counts, source.views)
    if counts is None:
        return None
    chosen = chosen_classes(source, {class_ for class_, _, _ in counts})
    return {key: images for key, images in counts.items() if key[0] in chosen}


def chosen_classes(source: SourceSettings, names: Iterable[str]) -> set[str]:
    """The classes of a data set that its settings choose.

    Raises:
        UserError: one that is chosen is not among them.
    """
    names = sorted(set(names))
    for name in source.classes:
        known(name, names, f"classes of {source.title}")
    return set(source.classes or names)


def subset_text(source: SourceSettings) -> str:
    """ "2 of 15 classes" if some are chosen; "" if all are used."""
    if not source.classes:
        return ""
    try:
        counts = None if source.miniature else read_counts(source.counts, source.views)
    except UserError:  # a run that was made elsewhere, with a table of its own
        counts = None
    chosen = len(source.classes)
    total = len({class_ for class_, _, _ in counts or {}})
    return f"{chosen} of {total} classes" if total else count(chosen, "class", "classes")


def class_counts(source: SourceSettings, split: str) -> Counter[str]:
    """Class -> images of a split that are expected; empty where that is not known."""
    counts: Counter[str] = Counter()
    for (class_, part, _), number in (expected_counts(source) or {}).items():
        if part == split:
            counts[class_] += number
    return counts


def read_counts(name: str, views: Sequence[str]) -> Counts | None:
    """The numbers of images in the table that a data set's `counts` names; None when there is none.

    Args:
        name: a table in config/counts/, or the path of a CSV file; "" for none.
        views: a selection of Real-IAD's views has a table of its own, if any: `<name>_<views>`.

    Raises:
        UserError: the file is missing or malformed.
    """
    if not name:
        return None
    selected = name + (f"_{''.join(views)}" if views else "")
    file = Path(name) if name.endswith(".csv") else CONFIG_FOLDER / "counts" / f"{selected}.csv"
    if views and not file.is_file():
        return None
    wrong = f"{file}: not a table of counts; the columns must be {','.join(COLUMNS)}, the last with whole numbers"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if reader.fieldnames != COLUMNS:
                raise UserError(wrong)
            lines_read = [((row["class"], row["split"], row["defect"]), int(row["images"])) for row in reader]
    except FileNotFoundError:
        raise UserError(f"{file}: no such table of counts; name one in config/counts/ or a CSV file") from None
    except (ValueError, TypeError, csv.Error):
        raise UserError(wrong) from None
    counts: dict[tuple[str, str, str], int] = {}
    for number, (key, images) in enumerate(lines_read, start=2):
        if key in counts:
            raise UserError(f"{file}, line {number}: {', '.join(key)} appears twice; remove one of the two lines")
        counts[key] = images
    return counts


def differences(images: Iterable[tuple[str, str, int, str]], expected: Counts) -> list[str]:
    """One line for each class and kind whose number of images is not the expected one.

    Args:
        images: class, split, label and defect of each.
        expected: from `expected_counts`.
    """
    together = {class_ for class_, _, defect in expected if defect == ANY_DEFECT}
    found = Counter(
        (class_, split, ANY_DEFECT if label == 1 and class_ in together else defect)
        for class_, split, label, defect in images
    )
    return [
        f"{', '.join(key[:2])} {key[2]}: {found[key]} instead of {expected.get(key, 0)}"
        for key in sorted(expected.keys() | found.keys())
        if found[key] != expected.get(key, 0)
    ]
