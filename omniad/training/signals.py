"""End a training on SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)


class Stop:
    """The signal that was received, if any. Before there is anything to save, a signal ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.deferred = False  # set while the training itself looks at `signal`, saves and calls `leave`

    def note(self, number: int, frame: FrameType | None = None) -> None:
        if not self.signal:  # Ctrl-C in a workflow sends several signals; one is enough
            self.signal = number
            if not self.deferred:
                self.leave()

    def leave(self) -> NoReturn:
        """End with status 143 or 130. A Slurm job that was sent SIGTERM stays alive until it is killed instead.

        Slurm requeues a job it preempts, or lets it be tried again at its time limit, only if the job has not ended by
        itself with an error.
        """
        name = signal.Signals(self.signal).name
        if self.signal == signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
            log.info("%s: waiting for Slurm to end this job; rerun the same command to resume", name)
            while True:
                time.sleep(60)
        log.info("%s: stopped; rerun the same command to resume", name)
        raise SystemExit(128 + self.signal)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catch SIGTERM and SIGINT in this block. Only a process's main thread can; elsewhere nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
