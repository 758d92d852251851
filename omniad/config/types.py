"""Types of settings: names and paths that are valid as files, numbers with sensible bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from omniad.names import CONTROL, checked_name


def _path(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError("must be a path without control characters")
    return text


def _made_path(text: str) -> str:
    if set("{}") & set(_path(text)):
        raise ValueError("must be a path without braces, which Snakemake takes for wildcards")
    return text


Name = Annotated[str, AfterValidator(checked_name)]  # of a data set, run, table, figure: files are called by it
PathText = Annotated[str, AfterValidator(_path)]
MadePath = Annotated[str, AfterValidator(_made_path)]  # of what the workflow makes


def at_most(limit: int, reason: str) -> AfterValidator:
    """A bound above every useful value, so that a typo is noticed at once."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"must be at most {limit:,} ({reason})")
        return value

    return AfterValidator(check)


MEMORY = "more does not fit in memory"
LIFETIME = "more would take years"
Many = Annotated[int, at_most(1_000_000, LIFETIME)]  # steps or epochs
Batch = Annotated[int, at_most(65_536, MEMORY)]
Pixels = Annotated[int, at_most(4096, "larger images do not fit in memory; cut them into tiles")]
Seed = Annotated[int, at_most(2**63 - 1, "the largest that PyTorch accepts")]
