"""The report: `report.md`, the figures, and every table as Markdown, LaTeX and CSV, below the results folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import jinja2

from omniad.config import CONFIG_FOLDER, Settings
from omniad.files import atomic_write
from omniad.reporting.claim_checks import check_claims
from omniad.reporting.claims import read_claims
from omniad.reporting.complexity import read_complexity
from omniad.reporting.figures import draw_figures
from omniad.reporting.layout import lay_out
from omniad.reporting.measurements import collect, save_measurements
from omniad.reporting.missing import missing, missing_figure
from omniad.reporting.outcome import outcome
from omniad.reporting.render import CSV_COLUMNS, csv_lines, templates
from omniad.reporting.resolution import read_resolutions
from omniad.reporting.runs import FinishedRun, finished_runs
from omniad.reporting.summary import what_was_run
from omniad.reporting.tables import DEFINITIONS, Table, build_tables, find

PAPER_VS_CODE = CONFIG_FOLDER.parent / "docs" / "paper-vs-code.md"


def write_report(settings: Settings) -> Path:
    """Collect what is finished and write measurements.csv, tables/, figures/ and report.md into `settings.results`.

    Returns:
        The path of report.md.

    Raises:
        UserError: a run folder or a file of printed numbers cannot be read, or nothing can be written.
    """
    results = Path(settings.results)
    runs = finished_runs(results)
    measurements = collect(runs)
    save_measurements(measurements, results / "measurements.csv")
    found = find(settings, measurements, runs, read_complexity(results / "complexity.csv"))
    tables = build_tables(found)
    resolutions = read_resolutions(results / "resolution.csv")
    claims = check_claims(found, tables, read_claims(settings), resolutions)
    environment = templates()
    contents = [{"table": table, "grid": lay_out(table), "missing": missing(settings, table)} for table in tables]
    for content in contents:
        _write_table(environment, content, results / "tables")
    figures = draw_figures(settings, tables, runs, resolutions, results / "figures")
    text = environment.get_template("report.md.j2").render(
        title=settings.title,
        summary=what_was_run(settings, runs),
        miniature=is_miniature(settings, runs),
        definition=DEFINITIONS[0],
        outcome=outcome(tables),
        claims=claims,
        contents=contents,
        figures=[{"drawn": figure, "missing": missing_figure(settings, figure)} for figure in figures],
        paper_vs_code=relative_link(PAPER_VS_CODE, results),
    )
    with atomic_write(results / "report.md") as file:
        file.write(text)
    return results / "report.md"


def is_miniature(settings: Settings, runs: Iterable[FinishedRun]) -> bool:
    """Whether any data set that is configured or was used is a miniature."""
    configured = any(settings.sources[dataset].miniature for dataset in settings.datasets)
    return configured or any(run.settings.source.miniature for run in runs)


def relative_link(target: Path, folder: Path) -> str:
    """A link to `target` from a file in `folder`, with forward slashes."""
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()


def _write_table(environment: jinja2.Environment, content: dict, folder: Path) -> None:
    table: Table = content["table"]
    for ending in ("md", "tex"):
        template = environment.get_template(f"table.{ending}.j2")
        with atomic_write(folder / f"{table.name}.{ending}") as file:
            file.write(template.render(**content, definition=DEFINITIONS[0]))
    with atomic_write(folder / f"{table.name}.csv") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_lines(table))
