"""One process at a time makes a file or folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from omniad.errors import UserError
from omniad.files import cannot_write


@contextmanager
def locked(path: Path, file: Path | None = None) -> Iterator[None]:
    """Hold the lock of `path`. The kernel drops it when the process ends, even by kill -9.

    Args:
        path: what is made.
        file: the lock's own file, `.<name>.lock` beside `path` by default; it holds its holder's host and pid.

    Raises:
        UserError: another process holds it (host and pid are named), or the folder cannot be written.
    """
    file = file or path.with_name(f".{path.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+", encoding="utf-8")
    except OSError as error:
        raise cannot_write(file, error) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: another process is making it{_holder(handle)}; wait for that one, then repeat"
            ) from None
        if not file.exists() or not file.samefile(f"/dev/fd/{handle.fileno()}"):
            raise UserError(f"{path}: another process has just made it; repeat")
        handle.truncate(0)
        handle.write(f"{socket.gethostname()} {os.getpid()}")
        handle.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _holder(handle: IO[str]) -> str:
    """ ", pid 12 on host a"; empty when the holder has not written yet."""
    handle.seek(0)
    host, _, pid = handle.read(1000).partition(" ")
    return f", pid {pid} on host {host}" if pid else ""
