"""Everything that the report says, gathered once; Markdown and HTML only differ in how they show it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omniad.config import CONFIG_FOLDER, Settings
from omniad.errors import UserError
from omniad.reporting.claims.checks import CheckedClaim, check_claims
from omniad.reporting.claims.forms import read_claims
from omniad.reporting.classes import ClassTable, class_tables
from omniad.reporting.complexity import read_complexity
from omniad.reporting.costs import Cost, Spent, costs, spent
from omniad.reporting.definitions import BothDefinitions, both_definitions
from omniad.reporting.figures.all_figures import draw_figures, main_runs
from omniad.reporting.figures.drawing import Drawn
from omniad.reporting.layout import Grid, lay_out
from omniad.reporting.measurements import Measurement, collect
from omniad.reporting.missing import command, missing, missing_figure
from omniad.reporting.oracle import Oracle, oracles
from omniad.reporting.outcome import Outcome, outcome
from omniad.reporting.records import record, versions
from omniad.reporting.resolution import read_resolutions
from omniad.reporting.runs import FinishedRun, evaluated_folders, read_run
from omniad.reporting.summary import what_was_run
from omniad.reporting.tables import Table, build_tables, find

log = logging.getLogger(__name__)

PAPER_VS_CODE = CONFIG_FOLDER.parent / "docs" / "paper-vs-code.md"


@dataclass(frozen=True)
class TableContent:
    table: Table
    grid: Grid
    missing: list[str]  # what it lacks, each with a command
    command: str  # that makes it


@dataclass(frozen=True)
class FigureContent:
    drawn: Drawn
    missing: str


@dataclass(frozen=True)
class Content:
    """One report. `results` is the folder that its links start from."""

    settings: Settings
    results: Path
    summary: str
    miniature: bool
    runs: list[FinishedRun]
    left_out: list[str]  # why a run folder is not in the report, one each
    main_runs: list[FinishedRun]  # shown in detail
    measurements: list[Measurement]
    outcome: Outcome
    tables: list[TableContent]
    claims: list[CheckedClaim]
    figures: list[FigureContent]
    classes: list[ClassTable]
    definitions: BothDefinitions  # of the runs that are shown in detail
    oracles: list[Oracle]
    records: list[list[str]]  # a line a run folder
    spent: list[Spent]
    costs: list[Cost]
    versions: dict[str, list[str]]
    report_command: str

    @property
    def title(self) -> str:
        remark = " (miniature data: accuracies are not comparable with the paper)" if self.miniature else ""
        return self.settings.title + remark


def gather(settings: Settings) -> Content:
    """Collect what is finished in `settings.results`, and draw the figures there.

    Raises:
        UserError: a file of printed numbers cannot be read, or nothing can be written.
    """
    results = Path(settings.results)
    runs, measurements, left_out = _readable(results)
    found = find(settings, measurements, runs, read_complexity(results / "complexity.csv"))
    tables = build_tables(found)
    resolutions = read_resolutions(results / "resolution.csv")
    figures = draw_figures(settings, tables, runs, resolutions, results / "figures")
    return Content(
        settings=settings,
        results=results,
        summary=what_was_run(settings, runs),
        miniature=is_miniature(settings, runs),
        runs=runs,
        left_out=left_out,
        main_runs=main_runs(settings, runs),
        measurements=measurements,
        outcome=outcome(tables),
        tables=[
            TableContent(table, lay_out(table), missing(settings, table), command(settings, table.name))
            for table in tables
        ],
        claims=check_claims(found, tables, read_claims(settings), resolutions),
        figures=[FigureContent(figure, missing_figure(settings, figure)) for figure in figures],
        classes=class_tables(measurements, runs),
        definitions=both_definitions(found.summary, main_runs(settings, runs)),
        oracles=oracles(runs),
        records=[record(run, results) for run in runs],
        spent=spent(runs),
        costs=costs(settings, runs),
        versions=versions(runs),
        report_command=command(settings, "report"),
    )


def _readable(results: Path) -> tuple[list[FinishedRun], list[Measurement], list[str]]:
    """The finished runs and their metrics; a folder of another version, or a damaged one, is told and left out."""
    runs, measurements, problems = [], [], []
    for folder in evaluated_folders(results):
        try:
            run = read_run(folder)
            measurements += collect([run])
            runs.append(run)
        except UserError as error:
            log.warning("Left out of the report: %s", error)
            problems.append(str(error))
    return runs, measurements, problems


def is_miniature(settings: Settings, runs: Iterable[FinishedRun]) -> bool:
    """Whether any data set that is configured or was used is a miniature."""
    configured = any(settings.sources[dataset].miniature for dataset in settings.datasets)
    return configured or any(run.settings.source.miniature for run in runs)
