"""Names that become files: of classes, runs, data sets, tables, figures. Each is one path component, and stays in its
folder; it is checked where it enters, in the configuration, the data sets' own lists and the index."""

from __future__ import annotations

import re

MEAN = "mean"  # no class is called so: it is metrics.csv's name for the plain mean over classes
MOST_BYTES = 200  # of a name in UTF-8: file systems allow 255, and endings come after it
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters; what is not UTF-8
OUTSIDE = re.compile(rf"^/|(?:^|/)\.\.(?:/|$)|{CONTROL.pattern}")


def name_problem(name: str) -> str:
    """Why a name can't be that of a file, to be read after "must"; "" when it can."""
    if not name:
        return "not be empty"
    if CONTROL.search(name):
        return "not contain control characters or invalid UTF-8"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "be a single name without slashes, because files are named after it"
    if len(name.encode()) > MOST_BYTES:
        return f"have at most {MOST_BYTES} bytes"
    return ""


def checked_name(name: str) -> str:
    """`name`, if it can be a file's. Raises ValueError."""
    if problem := name_problem(name):
        raise ValueError(f"must {problem}")
    return name


def leaves_folder(path: str) -> bool:
    """Whether a relative path may lead out of the folder it belongs in, or is no text."""
    return not path or OUTSIDE.search(path) is not None
