"""Choose a run's device. One run, one device: a GPU is locked by the process that uses it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import torch

# What `nvidia-smi --list-gpus` writes of a GPU, and below it of each of its slices.
GPU_LINE = re.compile(r"^GPU \d+:.*\(UUID: (GPU-[^)]+)\)", re.MULTILINE)
MIG_LINE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)", re.MULTILINE)
log = logging.getLogger(__name__)

# Open files hold the locks: the kernel drops them when the process ends, even by kill -9.
_held: list[TextIO] = []


def pick_device() -> torch.device:
    """A GPU that no other omniad process on this machine uses, after waiting if necessary; without a GPU the CPU.

    Only the GPUs that CUDA_VISIBLE_DEVICES leaves visible are considered. The one GPU that Slurm gave a job is that
    job's; of several (an interactive allocation in which a whole workflow runs) each process locks its own.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "SLURM_JOB_ID" in os.environ and torch.cuda.device_count() == 1:
        return torch.device("cuda", 0)
    uuids = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    return torch.device("cuda", lock_first_free(uuids))


def lock_first_free(names: Sequence[str], folder: Path | None = None, poll_s: float = 5.0) -> int:
    """Lock the first of these devices that is free, for the rest of this process; its position in `names`.

    Args:
        names: a unique name of each device.
        folder: where the lock files lie; by default one of this user's in the machine's folder for temporary files.
        poll_s: seconds between looks when all are taken.
    """
    folder = folder or Path(tempfile.gettempdir(), f"omniad-devices-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for position, name in enumerate(names):
            file = (folder / f"{name}.lock").open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            except OSError:  # a file system without locks: the device is taken as it is
                log.warning("%s: its file system has no locks, so another process may use the same GPU", folder)
            _held.append(file)
            return position
        if not waiting:
            log.info("All %d GPUs are in use by other omniad processes; waiting for one to become free.", len(names))
            waiting = True
        time.sleep(poll_s)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that the GPU or the machine ran out of memory."""
    told = any(text in str(error) for text in ("allocate memory", "not enough memory", "out of memory"))
    return isinstance(error, MemoryError) or told


def other_load() -> bool:
    """Whether other programs kept the cores busy in the last minute, so that what is measured now is too slow."""
    return os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)


def count_gpus() -> int:
    """GPUs this process may use, without the seconds that importing torch takes."""
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    text = answer.stdout if answer.returncode == 0 else ""
    gpus, slices = GPU_LINE.findall(text), MIG_LINE.findall(text)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = len(gpus) if visible is None else _count_visible(visible, gpus, slices)
    return min(seen, 1) if slices else seen  # a process uses one slice (MIG) at most, whichever it is given


def _count_visible(visible: str, gpus: list[str], slices: list[str]) -> int:
    """How many devices CUDA makes of CUDA_VISIBLE_DEVICES.

    Entries count up to the first that names no device (-1, NoDevFiles, an unknown UUID). A device that is named twice,
    or a UUID's beginning that several have, leaves none at all.

    Args:
        visible: numbers, or beginnings of UUIDs: "GPU-...", "MIG-...".
        gpus, slices: UUIDs in CUDA's order.
    """
    named: list[str] = []
    for name in map(str.strip, visible.split(",")):
        if name.isdecimal():
            found = gpus[int(name) : int(name) + 1] if len(name) < 10 else []
        else:
            found = [uuid for uuid in (*gpus, *slices) if name.startswith(("GPU-", "MIG-")) and uuid.startswith(name)]
        if not found:
            break
        if len(found) > 1 or found[0] in named:
            return 0
        named += found
    return len(named)
