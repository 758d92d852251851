"""The command line: errors in one line; commands with what each reads and writes, an example and `--debug`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

MOST_SEED = 2**63 - 1  # the largest that PyTorch takes


class Parser(argparse.ArgumentParser):
    """Tells an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def whole_number(text: str) -> int:
    """`int`, for `type=`, with an error that says what is wanted."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None


def number(text: str) -> float:
    """`float`, likewise."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not '{text}'") from None


def seed(text: str) -> int:
    """A random generator's seed, for `type=`."""
    value = whole_number(text)
    if not 0 <= value <= MOST_SEED:
        raise argparse.ArgumentTypeError(f"must be between 0 and {MOST_SEED}")
    return value


class Commands:
    """The subcommands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._parsers = parser.add_subparsers(metavar="COMMAND")

    def add(
        self,
        name: str,
        function: Callable[[argparse.Namespace], None],
        text: str,
        example: str,
        *,
        reads: str,
        writes: str,
    ) -> argparse.ArgumentParser:
        """A command that calls `function` with its options; its help says what goes in and what comes out."""
        added = self._parsers.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.\n\n  reads   {reads}\n  writes  {writes}",
            epilog=f"Example: omniad {name} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=function)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    def add_configured(
        self,
        name: str,
        function: Callable[[argparse.Namespace], None],
        text: str,
        example: str,
        *,
        reads: str,
        writes: str,
    ) -> argparse.ArgumentParser:
        """A command that reads the project's configuration, with `--config FILE` overlays."""
        added = self.add(name, function, text, example, reads=reads, writes=writes)
        added.add_argument(
            "--config", action="append", default=[], metavar="FILE", help="overlay on config/*.yaml (may be repeated)"
        )
        return added
