"""Write files atomically (temporary name, flush to disk, rename), and turn read errors into one line."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from omniad.errors import UserError

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # names that `atomic_write` writes to, and did once by `tempfile`
REASON = 200  # characters of an error's text in a message, at most
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would evaluate
MOST_TEXT = 2**28  # bytes of a text file that is read whole


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for writing; it appears, complete, only when the block ends without an error.

    Raises:
        UserError: no permission, no room on the disk, or a read-only file system.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
        with name.open(mode.replace("w", "x"), encoding=encoding, newline=newline) as file:  # readable as any new file
            temporary = name
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
        temporary = None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed; the caller alone writes there."""
    if folder.is_dir():
        for file in folder.iterdir():
            if TEMPORARY.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)


@contextmanager
def reading(file: str | Path, problem: str) -> Iterator[None]:
    """Turn whatever the reader of a damaged or untrusted file raises or warns of into one line.

    A whole family of errors, up to RecursionError and MemoryError, is what decoders raise of such files, so it is not
    listed. Hence this block holds the reading and nothing else.

    Args:
        file: what is read.
        problem: what to call it and what to do: "not written by `omniad train`; train the run again".

    Raises:
        UserError: "<file>: <problem> (<reason>)".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror or in_one_line(error)}") from error
    except Exception as error:
        raise UserError(f"{file}: {problem} ({in_one_line(error)})") from error


def in_one_line(error: BaseException | str) -> str:
    """A text, an error's, or its kind where it has none, in one line of at most REASON printable characters."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in str(error)[: 4 * REASON]).split())
    return text[:REASON] if text or isinstance(error, str) else type(error).__name__


def read_text(file: str | Path, most: int = MOST_TEXT) -> str:
    """A UTF-8 file's text. Raises OSError, and ValueError of what is no file, no text or has more bytes than `most`."""
    path = Path(file)
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as handle:
        content = handle.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most / 1e6:,.0f} MB")
    return content.decode()


def read_csv(file: str | Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """A CSV file's rows by column; those of `columns` are there, in every row. Raises what `read_text` does."""
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    absent = set(columns) - set(rows.fieldnames or ())
    if absent:
        raise ValueError(f"no column {min(absent)}")
    found = []
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"line {rows.line_num} does not have as many fields as the first")
        found.append(row)
    return found


def write_csv(
    path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], for_people: bool = False
) -> None:
    """Write rows as a CSV file; a missing or None value is an empty field.

    Args:
        for_people: they may open it in a spreadsheet, so an apostrophe is put before a text that would be a formula
            there. Numbers, and files that programs read, stay as they are.
    """
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _no_formula(value) for key, value in row.items()} if for_people else row for row in rows)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def cannot_write(path: Path, error: OSError) -> UserError:
    """The message for a write that the system refused."""
    return UserError(
        f"{path}: cannot write: {error.strerror or error}; free some space or change permissions, then try again"
    )


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_files(folder: str | Path) -> bool:
    """Whether a data set's folder contains anything: then it is used as it is."""
    folder = Path(folder)
    return folder.is_dir() and any(folder.iterdir())
