"""Runs: status."""

from __future__ import annotations

import argparse
from collections import Counter

from omniad.commands.parser import Commands
from omniad.config import project_settings


def status(options: argparse.Namespace) -> None:
    from omniad.runs.files import run_name
    from omniad.status import run_statuses

    found = list(run_statuses(project_settings(*options.config), options.target))
    names = [str(run_name(run.folder)) for run in found]
    for name, run in zip(names, found, strict=True):
        print(f"{name:{max(map(len, names))}}  {run.state:11}  {run.detail}".rstrip())
    counts = Counter(run.state for run in found)
    print(f"{len(found)} runs: " + ", ".join(f"{number} {state}" for state, number in counts.items()))


def add_commands(commands: Commands) -> None:
    sub = commands.add_configured(
        "status",
        status,
        "show the progress of every run of a target",
        "ablations",
        reads="the run folders, their locks and logs, and Slurm's queue where there is one",
        writes="nothing; prints a line per run: not started, queued, running, stopped, trained, done or failed",
    )
    sub.add_argument(
        "target", metavar="TARGET", help="table1 ... table7, ablations, figures, field, all, ... (README.md lists them)"
    )
