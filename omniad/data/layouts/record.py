"""The record that every layout reader returns."""

from typing import NamedTuple

NORMAL, ANOMALOUS = 0, 1
SPLITS = ("train", "test", "validation")  # the last: good images that set a threshold, not trained or tested on


class Record(NamedTuple):
    """One image of a data set. Paths are relative to the data set's folder, with forward slashes.

    `label` is 0 (normal) or 1 (anomalous); `defect` is "good" or the kind's name; `mask` is "" for a normal image, else
    a file, or a folder of files whose union it is.
    """

    class_: str
    split: str  # one of SPLITS
    label: int
    defect: str
    image: str
    mask: str
