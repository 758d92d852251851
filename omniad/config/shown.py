"""Settings of the report: what its tables and figures show, and the margins of its verdicts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from omniad.config.checking import Section
from omniad.config.types import PathText, at_most

Metric = Literal["I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AU-PRO", "mAD"]
Column = Literal[Metric, "parameters", "FLOPs"]


class RowSettings(Section):
    label: str = Field(description="the paper's row, as in config/paper/")
    dataset: str = Field(default="mvtec")
    run: str = Field(default="", description="empty: the row shows only printed numbers")
    group: str = Field(default="", description="rows are compared only within a group; empty: within the data set")
    target: str = Field(
        default="",
        description="one of the table's `targets`, which trains this row's run instead of the table's own target",
    )


class TableSettings(Section):
    title: str
    paper: PathText = Field(
        default="", description="file in config/paper/ with the printed numbers; empty: there are none"
    )
    columns: list[Column] = Field(description="metrics, parameters or FLOPs, in the paper's order")
    about: str = Field(default="", description="one or two sentences above the table in the report")
    head: str = Field(default="Method", description="heading of the first column")
    judged: bool = Field(
        default=True,
        description="whether our numbers get verdicts against the printed ones; false: a table for context",
    )
    extra_runs: list[str] = Field(default=[], description="if they were run, shown below each row that has a run")
    targets: list[Annotated[str, Field(pattern="^[a-z]\\w*$")]] = Field(
        default=[], description="targets that single rows may name"
    )
    rows: list[RowSettings]


class FigureSettings(Section):
    title: str
    run: str = "default"
    datasets: list[str] = Field(default=["mvtec", "visa"])
    classes: Annotated[int, at_most(100, "more do not fit on a page")] = Field(
        default=4, ge=1, description="classes shown per data set"
    )


MARGINS = {  # points; config/config.yaml gives the reasons
    "I-AUROC": 0.5,
    "I-AP": 0.3,
    "I-F1max": 0.5,
    "P-AUROC": 0.3,
    "P-AP": 1.0,
    "P-F1max": 1.0,
    "AU-PRO": 0.5,
    "mAD": 0.5,
}


def _each_metric(margins: dict[str, float]) -> dict[str, float]:
    if margins.keys() != MARGINS.keys():
        raise ValueError(f"must have a margin for each of {', '.join(MARGINS)}, and no others")
    return margins


class VerdictSettings(Section):
    """The rule that says whether a printed number was reproduced: docs/verdicts.md."""

    margins: Annotated[dict[str, Annotated[float, Field(gt=0)]], AfterValidator(_each_metric)] = Field(
        default=MARGINS, description="the largest true shift that still counts as reproduced, points"
    )
