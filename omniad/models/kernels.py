"""Whether kernels of our own, written in Triton, run here."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache


@cache
def lacking() -> str:
    """What Triton's kernels lack here, for a message; empty where they run."""
    if importlib.util.find_spec("triton") is None:
        return "Triton"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "a C compiler, which Triton needs,"
    return ""
