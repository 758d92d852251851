"""The command line: every step of the workflow by hand, one subcommand each (omniad/commands/)."""

from __future__ import annotations

import logging
import os
import signal
import sys

import omniad
from omniad.commands import data, doctor, evaluation, images, models, reporting, runs, settings, training
from omniad.commands.parser import Commands, Parser
from omniad.devices import is_out_of_memory
from omniad.errors import UserError
from omniad.files import in_one_line

GROUPS = (settings, doctor, data, training, runs, evaluation, images, models, reporting)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; any error becomes one line on standard error and exit status 1.

    130 is Ctrl-C, 141 a closed pipe.
    """
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of our output, e.g. `head`, has closed the pipe. Python flushes at exit and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str] | None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if "command" not in options:
        parser.print_help(sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # retries: the download reports their outcome
    try:
        options.command(options)
        sys.stdout.flush()  # now, while an error can still be reported
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.debug:
            raise
        print(f"omniad: {_in_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _in_one_line(error: Exception) -> str:
    """A UserError is written for users; anything else is a bug, or a failing machine."""
    if isinstance(error, UserError):
        return str(error)
    reason = in_one_line(error)
    if isinstance(error, OSError) and error.strerror:  # the machine's: a full disk, a file without permission
        return f"{error.filename or 'output'}: {error.strerror}"
    if is_out_of_memory(error):
        return f"out of memory: {reason}"
    return f"unexpected {type(error).__name__}: {reason}; this is a bug: repeat with --debug and report the traceback"


def make_parser() -> Parser:
    parser = Parser(
        prog="omniad", description="Omni-AD, multi-class anomaly detection: every step of the reproduction by hand."
    )
    parser.add_argument("--version", action="version", version=f"omniad {omniad.__version__}")
    commands = Commands(parser)
    for group in GROUPS:
        group.add_commands(commands)
    return parser
