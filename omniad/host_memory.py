"""How much main memory this process may use, on the machine and within its control groups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that are free or hold files which can be dropped, at most as many as any control group allows.

    Slurm and containers limit memory by control groups, which count the pages of files that a process reads, too.
    Where nothing is known (not on Linux), `sys.maxsize`.
    """
    bounds = [sys.maxsize]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            bounds.append(1024 * int(line.split()[1]))
    for file in _limit_files(root):
        bounds += [int(line) for line in _lines(file) if line.isdecimal()]  # "max" is no limit
    return min(bounds)


def _limit_files(root: Path) -> Iterator[Path]:
    """Of the control groups that this process is in, and of all above them; versions 1 and 2."""
    groups = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            group = top / path.lstrip("/")
            yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(top))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
