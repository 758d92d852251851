"""The paper's claims as data: `config/paper/claims.yaml`, read into checked forms. checks.py evaluates them.

The forms are few and fixed, so that a claim is data and never code:
- equal: this row has these numbers;
- difference: this row minus that row is these numbers;
- above: this row is above (`lower`: below) each of some rows, or all others, in at least `columns` of these columns;
- increasing: in these columns each row is above the one before;
- range: between these rows (or all) each column differs by at most, or at least, so much;
- mean: a column is the mean of others, in every row;
- images: a data set has this many images;
- growth: FLOPs grow with a power of the number of pixels that is at most, or at least, so large;
- numbers: a number is below others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from omniad.config import PAPER_FOLDER, Section, Settings, known, read_yaml, validate

CLAIMS_FILE = PAPER_FOLDER / "claims.yaml"


class Equal(Section):
    form: Literal["equal"]
    row: str
    columns: dict[str, float]


class Difference(Section):
    form: Literal["difference"]
    row: str
    minus: str
    columns: dict[str, float] = Field(description="the stated difference, by column")


class Above(Section):
    form: Literal["above"]
    row: str
    than: list[str] = Field(default=[], description="empty: all other rows of the data set and the row's group")
    columns: list[str]
    at_least: int = Field(default=0, description="how many of the columns; 0: all")
    ties: bool = Field(default=False, description="ties count as best")
    lower: bool = False


class Increasing(Section):
    form: Literal["increasing"]
    rows: list[str]
    columns: list[str]


class Range(Section):
    form: Literal["range"]
    rows: list[str] = Field(default=[], description="empty: all of the data set")
    columns: list[str]
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Range:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("must have either at_most or at_least")
        return self


class Mean(Section):
    form: Literal["mean"]
    column: str
    of: list[str]


class Images(Section):
    form: Literal["images"]
    classes: int | None = None
    all: int | None = None
    normal: int | None = None
    train: int | None = None
    test: int | None = None
    test_normal: int | None = None
    test_anomalous: int | None = None


class Growth(Section):
    form: Literal["growth"]
    attention: Literal["learnable", "plain"]
    at_most: float | None = None
    at_least: float | None = None


class Numbers(Section):
    form: Literal["numbers"]
    value: float
    below: list[float]


Check = Annotated[
    Equal | Difference | Above | Increasing | Range | Mean | Images | Growth | Numbers, Field(discriminator="form")
]


class Claim(Section):
    """One claim: where it stands, what it says, and what would make it true."""

    place: str = Field(description="section or table of the paper")
    says: str = Field(description="the claim in our words, with the paper's numbers")
    reading: str = Field(default="", description="what had to be decided to make it computable")
    table: str = Field(default="", description="table whose rows and columns the check names; empty: none")
    datasets: list[str] = Field(default=["mvtec"], description="the claim must hold on each")
    check: Check


class ClaimsFile(Section):
    columns: dict[str, list[str]] = Field(default={}, description="named lists, for YAML's anchors")
    claims: dict[str, Claim]


def read_claims(settings: Settings, file: Path = CLAIMS_FILE) -> dict[str, Claim]:
    """The claims by name; none outside a checkout, where there is no such file.

    Raises:
        UserError: the file is malformed, or a claim names a table, row, column or data set that is not configured.
    """
    if file == CLAIMS_FILE and not file.is_file():
        return {}
    claims = validate(ClaimsFile, read_yaml(file), str(file)).claims
    for name, claim in claims.items():
        where = f"{file}: claims.{name}"
        for dataset in claim.datasets:
            known(dataset, settings.sources, f"{where}: datasets")
        if claim.table:
            table = settings.tables[known(claim.table, settings.tables, f"{where}: table")]
            rows = {row.label for row in table.rows if row.dataset in claim.datasets}
            for row in _named(claim.check, "row", "minus", "than", "rows"):
                known(row, rows, f"{where}: row of tables.{claim.table}")
            for column in _named(claim.check, "columns", "column", "of"):
                known(column, table.columns, f"{where}: column of tables.{claim.table}")
    return claims


def _named(check: Any, *fields: str) -> list[str]:
    """All names in these fields of a form, as far as it has them."""
    found: list[str] = []
    for name in fields:
        value = getattr(check, name, [])
        found += [value] if isinstance(value, str) else list(value)
    return found
