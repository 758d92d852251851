"""One process at a time makes a file or folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omniad.errors import UserError
from omniad.files import cannot_write


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`. The kernel drops it when the process ends, even by kill -9.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    file = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a")
    except OSError as error:
        raise cannot_write(file, error) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another process is making it; wait for that one, then repeat") from None
        if not file.exists() or not file.samefile(f"/dev/fd/{handle.fileno()}"):
            raise UserError(f"{path}: another process has just made it; repeat")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
