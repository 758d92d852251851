"""Settings: settings."""

from __future__ import annotations

import argparse

from omniad.commands.parser import Commands
from omniad.config import load_settings, snapshot_text


def settings(options: argparse.Namespace) -> None:
    print(snapshot_text(load_settings(*options.config)), end="")


def add_commands(commands: Commands) -> None:
    commands.add_configured(
        "settings",
        settings,
        "print the resolved configuration",
        "--config config/demo.yaml",
        reads="config/*.yaml and the overlays",
        writes="nothing; every setting is printed as YAML",
    )
