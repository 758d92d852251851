"""Which device each job's processes see, looked up in the processes themselves."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from cluster import job_processes

Seen = frozenset[tuple[str, str, str]]  # (job, node, device)


class DeviceWatch:
    """While it is open: twice a second, the device of every `omniad train` and `omniad evaluate` of a Slurm job."""

    def __init__(self) -> None:
        self.seen: set[Seen] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> DeviceWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def shared(self) -> list[Seen]:
        """The moments at which two jobs had one device of a node."""
        return [moment for moment in self.seen if len({(node, device) for _, node, device in moment}) < len(moment)]

    def most_at_once(self) -> int:
        return max(map(len, self.seen))

    def devices(self) -> Counter[tuple[str, str]]:
        """(node, device) -> how many jobs had it."""
        return Counter((node, device) for _, node, device in set().union(*self.seen))

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            self.seen.add(
                frozenset(
                    (environment["SLURM_JOB_ID"], environment["SLURMD_NODENAME"], environment["CUDA_VISIBLE_DEVICES"])
                    for process, environment in job_processes().items()
                    if _computes(process)
                )
            )


def _computes(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-m", b"omniad"] and words[3] in (b"train", b"evaluate")
