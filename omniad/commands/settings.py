"""Settings: settings."""

from __future__ import annotations

import argparse

from omniad.commands.images import add_preset
from omniad.commands.parser import Commands
from omniad.config import load_settings, snapshot_text
from omniad.detector.presets import choose
from omniad.errors import UserError


def settings(options: argparse.Namespace) -> None:
    if options.method and not options.preset:
        raise UserError("--method needs --preset")
    chosen = choose(options.preset, options.method, *options.config).settings if options.preset else None
    print(snapshot_text(chosen or load_settings(*options.config)), end="")


def add_commands(commands: Commands) -> None:
    sub = commands.add_configured(
        "settings",
        settings,
        "print the resolved configuration",
        "--config config/demo.yaml",
        reads="config/*.yaml and the overlays",
        writes="nothing; every setting is printed as YAML",
    )
    add_preset(sub, default=None)
