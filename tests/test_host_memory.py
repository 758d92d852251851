"""Available memory by files as Linux writes them, in a made-up root folder."""

import sys
from pathlib import Path

import pytest

from omniad.host_memory import available_memory

GIB = 2**30


def machine(root: Path, groups: str) -> Path:
    """16 GiB available."""
    root.joinpath("proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {16 * 2**20} kB\nBuffers: 1 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def limit(root: Path, folder: str, name: str, text: str) -> None:
    file = root / "sys/fs/cgroup" / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_the_machines(tmp_path):
    assert available_memory(machine(tmp_path, "")) == 16 * GIB


@pytest.mark.parametrize("folder", ["slurm/job_7/step_0", "slurm/job_7", "slurm", ""])
def test_a_control_group_of_version_2_or_one_above_it(tmp_path, folder):
    root = machine(tmp_path, "0::/slurm/job_7/step_0\n")
    limit(root, "slurm/job_7/step_0", "memory.max", "max")
    limit(root, folder, "memory.max", str(8 * GIB))
    limit(root, "slurm/job_8", "memory.max", "1")  # another job's
    assert available_memory(root) == 8 * GIB


def test_a_control_group_of_version_1(tmp_path):
    root = machine(tmp_path, "8:pids:/a\n4:memory:/slurm/job_7\n0::/\n")
    limit(root, "memory/slurm/job_7", "memory.limit_in_bytes", str(3 * GIB))
    limit(root, "memory", "memory.limit_in_bytes", str(2**63 - 4096))  # how version 1 says that there is none
    assert available_memory(root) == 3 * GIB


def test_nothing_known(tmp_path):
    assert available_memory(tmp_path) == sys.maxsize
    assert available_memory() > GIB / 4
