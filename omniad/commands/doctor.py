"""This machine: doctor."""

from __future__ import annotations

import argparse

from omniad.commands.parser import Commands
from omniad.config import load_settings
from omniad.errors import UserError


def doctor(options: argparse.Namespace) -> None:
    from omniad.doctor import examine

    broken = []
    for finding in examine(load_settings(*options.config)):
        print(f"{finding.state:8} {finding.what}: {finding.text}", flush=True)
        broken += [finding.what] if finding.state == "broken" else []
    if broken:
        raise UserError(f"broken, see above: {', '.join(broken)}")


def add_commands(commands: Commands) -> None:
    commands.add_configured(
        "doctor",
        doctor,
        "report what this machine has, what is missing, and how to get it",
        "",
        reads="this machine: Python, packages, GPU, disk, Slurm; the data sets and weights of the configuration",
        writes="nothing; prints a line each: ok, missing (not needed for everything) or broken (exit status 1)",
    )
