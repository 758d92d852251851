"""The report: `report.md` and `report.html`, the figures, and every table as Markdown, LaTeX and CSV, in `results`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2

from omniad.config import CONFIG_FOLDER, Settings
from omniad.errors import UserError
from omniad.files import atomic_write, write_csv
from omniad.reporting.claims.checks import CheckedClaim, check_claims
from omniad.reporting.claims.forms import read_claims
from omniad.reporting.classes import BothDefinitions, ClassTable, both_definitions, class_tables, write_classes
from omniad.reporting.complexity import read_complexity, read_resolutions
from omniad.reporting.costs import Cost, Spent, costs, spent
from omniad.reporting.figures.all_figures import draw_figures, main_runs
from omniad.reporting.figures.drawing import Drawn
from omniad.reporting.gallery import KINDS, class_pictures, data_address
from omniad.reporting.layout import Grid, lay_out
from omniad.reporting.missing import command, missing, missing_figure
from omniad.reporting.outcome import Oracle, Outcome, oracles, outcome
from omniad.reporting.paper_check import check_paper
from omniad.reporting.records import HEAD, record, versions, write_records
from omniad.reporting.render import CSV_COLUMNS, csv_lines, page_part, templates
from omniad.reporting.summary import what_was_run
from omniad.reporting.tables import SHOWN, Table, build_tables, find
from omniad.runs.artifacts import read_curves, read_epochs, read_history
from omniad.runs.files import SCORES
from omniad.runs.finished import FinishedRun, evaluated_folders, read_run
from omniad.runs.measurements import Measurement, collect, write_measurements
from omniad.runs.weights import measured_others
from omniad.wording import duration

DETAILED = 3  # misses and false alarms a class of the runs that are shown in detail


def write_report(settings: Settings) -> Path:
    """Collect what is finished and write measurements.csv, tables/, figures/, report.md and report.html.

    Returns:
        The path of report.md.

    Raises:
        UserError: a file of printed numbers cannot be read, or nothing can be written.
    """
    content = gather(settings)
    write_measurements(content.measurements, content.results / "measurements.csv")
    write_records(content.runs, content.results, content.results / "runs.csv")
    environment = templates()
    environment.globals |= {
        "content": content,
        "definition": SHOWN,
        "record_head": HEAD,
        "duration": duration,
        "style": page_part("style.css"),
        "script": page_part("report.js"),
        "link": lambda path: relative_link(path, content.results),
        "paper_vs_code": relative_link(PAPER_VS_CODE, content.results),
        "about_verdicts": relative_link(VERDICTS, content.results),
    }
    for table in content.tables:
        write_table(environment, table, content.results / "tables")
    for classes in content.classes:
        _write_classes(environment, classes, content.results / "tables" / "classes")
    main = {(run.dataset, run.run) for run in content.main_runs}
    _write(content.results / "report.md", environment.get_template("report.md.j2").render(main=main))
    gallery = class_pictures(content.runs, dict.fromkeys(main, DETAILED))
    html = environment.get_template("report.html.j2").render(
        main=main, gallery=gallery, address=data_address, kinds=KINDS, anchors=_anchors(content)
    )
    _write(content.results / "report.html", html)
    return content.results / "report.md"


def _anchors(content: Content) -> dict[str, int]:
    """Data set and run -> the place of its first seed among the records, where a link to it leads."""
    first: dict[str, int] = {}
    for place, run in enumerate(content.runs):
        first.setdefault(f"{run.dataset}-{run.run}", place)
    return first


def relative_link(target: Path, folder: Path) -> str:
    """A link to `target` from a file in `folder`: forward slashes, and no sign that ends a link."""
    return quote(Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix())


def write_table(environment: jinja2.Environment, content: TableContent, folder: Path) -> None:
    """Write one table as Markdown, LaTeX and CSV."""
    for ending in ("md", "tex"):
        text = environment.get_template(f"table.{ending}.j2").render(
            table=content.table, grid=content.grid, missing=content.missing
        )
        _write(folder / f"{content.table.name}.{ending}", text)
    write_csv(folder / f"{content.table.name}.csv", CSV_COLUMNS, csv_lines(content.table), for_people=True)


def _write_classes(environment: jinja2.Environment, classes: ClassTable, folder: Path) -> None:
    scores = [relative_link(one / SCORES, folder) for one in classes.folders]
    text = environment.get_template("classes.md.j2").render(table=classes, scores=scores)
    _write(folder / f"{classes.name}.md", text)
    write_classes(classes, folder / f"{classes.name}.csv")


def _write(file: Path, text: str) -> None:
    with atomic_write(file) as handle:
        handle.write(text)


log = logging.getLogger(__name__)

PAPER_VS_CODE = CONFIG_FOLDER.parent / "docs" / "paper-vs-code.md"
VERDICTS = CONFIG_FOLDER.parent / "docs" / "verdicts.md"


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
        UserError: a file of printed numbers cannot be read or names what is in no table, or nothing can be written.
    """
    check_paper(settings)
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
        classes=class_tables(settings, measurements, runs),
        definitions=both_definitions(found.summary, main_runs(settings, runs)),
        oracles=oracles(runs),
        records=[record(run, results) for run in runs],
        spent=spent(runs),
        costs=costs(settings, runs),
        versions=versions(runs),
        report_command=command(settings, "report"),
    )


def _readable(results: Path) -> tuple[list[FinishedRun], list[Measurement], list[str]]:
    """The finished runs and their metrics; a folder of another version, or a damaged one, is reported and left out."""
    runs, measurements, problems = [], [], []
    for folder in evaluated_folders(results):
        try:
            run = read_run(folder)
            if problem := measured_others(folder, run.provenance):
                raise UserError(problem)
            found = collect([run])
            for read in (read_history, read_curves, lambda of_run: read_epochs(of_run, SHOWN)):  # what is shown of each
                read(folder)
            measurements += found
            runs.append(run)
        except UserError as error:
            log.warning("Left out of the report: %s", error)
            problems.append(str(error))
    return runs, measurements, problems


def is_miniature(settings: Settings, runs: Iterable[FinishedRun]) -> bool:
    """Whether any data set that is configured or was used is a miniature."""
    configured = any(settings.sources[dataset].miniature for dataset in settings.datasets)
    return configured or any(run.settings.source.miniature for run in runs)
