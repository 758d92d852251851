"""Reporting: report, bundle, unbundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from omniad.commands.parser import Commands
from omniad.config import project_settings, snapshot_file, snapshot_text
from omniad.files import atomic_write


def report(options: argparse.Namespace) -> None:
    from omniad.reporting.report import write_report

    settings = project_settings(*options.config)
    file = write_report(settings)
    snapshot = Path(snapshot_file(settings.results))
    if not snapshot.exists():  # the report's commands name it; one of the workflow's may be in use
        with atomic_write(snapshot) as lines:
            lines.write(snapshot_text(settings))
    print(f"Written: {file} and {file.with_suffix('.html').name}")


def bundle(options: argparse.Namespace) -> None:
    from omniad.bundle import bundle

    runs = bundle(options.runs, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, with {', '.join(runs)}")
    print(f"To use it: omniad unbundle {options.out.name}, then omniad report, or omniad predict with a run's folder")


def unbundle(options: argparse.Namespace) -> None:
    from omniad.bundle import unbundle

    runs = unbundle(options.bundle, options.results)
    new = f"New in {options.results}: {', '.join(runs) or 'nothing; all runs were already there'}."
    # A report of another folder needs a configuration that names it.
    print(
        f"{new} Next: omniad report"
        if options.results == Path("results")
        else f"{new} Each holds its metrics.csv; omniad predict takes its folder."
    )


def add_commands(commands: Commands) -> None:
    commands.add_configured(
        "report",
        report,
        "write tables, figures, report.md and report.html from the finished runs",
        "",
        reads="the finished runs in the results folder, and the printed numbers (config/paper/)",
        writes="report.md, report.html, tables and figures in the results folder; config.yaml if there is none",
    )

    sub = commands.add(
        "bundle",
        bundle,
        "pack finished runs into one file to share",
        "results/runs/mvtec/default/seed0 --out default.zip",
        reads="the run folders: weights, threshold, configuration, metrics, scores, curves, examples, provenance",
        writes="one zip with these files and their sha256",
    )
    sub.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folders of finished runs")
    sub.add_argument("--out", required=True, type=Path, metavar="FILE.zip", help="the bundle to write")

    sub = commands.add(
        "unbundle",
        unbundle,
        "check a bundle and put its runs into a results folder",
        "default.zip --results results",
        reads="a zip written by `omniad bundle`; no code in it is run",
        writes="RESULTS/runs/<dataset>/<run>/seed<n>/, for `omniad report`; all runs or none",
    )
    sub.add_argument("bundle", type=Path, metavar="FILE.zip", help="written by `omniad bundle`")
    sub.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where runs/ is (default: %(default)s)"
    )
