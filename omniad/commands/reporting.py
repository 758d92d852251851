"""Reporting: report."""

from __future__ import annotations

import argparse

from omniad.commands.parser import Commands
from omniad.config import load_settings


def report(options: argparse.Namespace) -> None:
    from omniad.reporting import write_report

    print(f"Written: {write_report(load_settings(*options.config))}")


def add_commands(commands: Commands) -> None:
    commands.add_configured("report", report, "write tables, figures and report.md from the finished runs", "")
