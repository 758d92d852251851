"""The report: `report.md` and `report.html`, the figures, and every table as Markdown, LaTeX and CSV, in `results`."""

from __future__ import annotations

import os
from pathlib import Path

import jinja2

from omniad.config import Settings
from omniad.files import atomic_write, write_csv
from omniad.reporting.classes import ClassTable, write_classes
from omniad.reporting.content import PAPER_VS_CODE, Content, TableContent, gather
from omniad.reporting.gallery import KINDS, class_pictures, data_address
from omniad.reporting.measurements import write_measurements
from omniad.reporting.records import HEAD, duration, write_records
from omniad.reporting.render import CSV_COLUMNS, csv_lines, templates
from omniad.reporting.tables import SHOWN

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
        "link": lambda path: relative_link(path, content.results),
        "paper_vs_code": relative_link(PAPER_VS_CODE, content.results),
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
    """A link to `target` from a file in `folder`, with forward slashes."""
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()


def write_table(environment: jinja2.Environment, content: TableContent, folder: Path) -> None:
    """Write one table as Markdown, LaTeX and CSV."""
    for ending in ("md", "tex"):
        text = environment.get_template(f"table.{ending}.j2").render(
            table=content.table, grid=content.grid, missing=content.missing
        )
        _write(folder / f"{content.table.name}.{ending}", text)
    write_csv(folder / f"{content.table.name}.csv", CSV_COLUMNS, csv_lines(content.table))


def _write_classes(environment: jinja2.Environment, classes: ClassTable, folder: Path) -> None:
    scores = [relative_link(one / "scores.csv", folder) for one in classes.folders]
    text = environment.get_template("classes.md.j2").render(table=classes, scores=scores)
    _write(folder / f"{classes.name}.md", text)
    write_classes(classes, folder / f"{classes.name}.csv")


def _write(file: Path, text: str) -> None:
    with atomic_write(file) as handle:
        handle.write(text)
