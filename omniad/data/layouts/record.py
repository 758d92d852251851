"""What every layout reader returns."""

from typing import NamedTuple

NORMAL, ANOMALOUS = 0, 1


class Record(NamedTuple):
    """One image of a data set. Paths are relative to the data set's folder, with forward slashes.

    `label` is 0 (normal) or 1 (anomalous); `defect` is "good" or the kind's name; `mask` is "" for a normal image.
    """

    class_: str
    split: str  # "train" or "test"; of own images also "validation"
    label: int
    defect: str
    image: str
    mask: str
