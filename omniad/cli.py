"""The command line: every step of the workflow by hand, one subcommand each, from `omniad/commands/`."""

from __future__ import annotations

import argparse
import logging
import sys

from omniad.commands import data, evaluation, models, reporting, settings, training
from omniad.commands.parser import Commands
from omniad.errors import UserError

GROUPS = (settings, data, training, evaluation, models, reporting)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a UserError becomes one line on standard error and exit status 1."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.command(options)
    except UserError as error:
        if options.debug:
            raise
        print(f"omniad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omniad", description="Omni-AD, multi-class anomaly detection: every step of the reproduction by hand."
    )
    commands = Commands(parser)
    for group in GROUPS:
        group.add_commands(commands)
    return parser
