"""Reporting: report."""

from __future__ import annotations

import argparse

from omniad.commands.parser import Commands
from omniad.config import project_settings


def report(options: argparse.Namespace) -> None:
    from omniad.reporting import write_report

    print(f"Written: {write_report(project_settings(*options.config))}")


def add_commands(commands: Commands) -> None:
    commands.add_configured(
        "report",
        report,
        "write tables, figures and report.md from the finished runs",
        "",
        reads="the run folders that exist below the results' folder, and what the paper prints (config/paper/)",
        writes="report.md, tables and figures in the results' folder",
    )
