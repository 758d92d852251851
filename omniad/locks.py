"""Locks, so that only one process at a time writes a file or folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from omniad.errors import UserError
from omniad.files import cannot_write

POLL_S = 0.2
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
log = logging.getLogger(__name__)


class HeldError(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, file: Path | None = None, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `path`. The kernel drops it when the process ends, even by kill -9.

    On a file system without `flock` a warning is logged and nothing is locked.

    Args:
        path: what is made.
        file: the lock file, `.<name>.lock` beside `path` by default; it contains the holder's host and pid.
        wait: wait for another process that holds it, instead of raising an error.

    Raises:
        UserError: another process holds it (host and pid are named), or the folder cannot be written.
    """
    file = file or path.with_name(f".{path.name}.lock")
    with _waited_for(path, file) if wait else _locked_file(path, file) as handle:
        handle.truncate(0)
        handle.write(f"{socket.gethostname()} {os.getpid()}")
        handle.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _waited_for(path: Path, file: Path) -> IO[str]:
    told = False
    while True:
        try:
            return _locked_file(path, file)
        except HeldError as error:
            if not told:
                log.info("%s", error)
            told = True
            time.sleep(POLL_S)


def _locked_file(path: Path, file: Path) -> IO[str]:
    """The open file that is the lock."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise cannot_write(file, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_there(file, handle):
            raise HeldError(f"{path}: another process has just written to it; run the command again")
    except OSError as error:
        if not isinstance(error, BlockingIOError):
            if error.errno not in WITHOUT_LOCKS:
                handle.close()
                raise cannot_write(file, error) from None
            log.warning("%s: its file system has no locks (flock); make sure that only one process writes there", path)
            return handle
        holder = _holder(handle)
        handle.close()
        raise HeldError(f"{path}: in use by another process{holder}; wait until it ends, then try again") from None
    except HeldError:
        handle.close()
        raise
    return handle


def _is_there(file: Path, handle: IO[str]) -> bool:
    """Whether the open file still has its name; else its holder has removed it between our opening and our lock."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def _holder(handle: IO[str]) -> str:
    """ ", pid 12 on host a"; empty when the holder has not written yet."""
    handle.seek(0)
    host, _, pid = handle.read(1000).partition(" ")
    return f", pid {pid} on host {host}" if pid else ""
