"""One device, one process: the lock outlives nothing but its holder."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from omniad import devices

HOLDER = """
import sys, time
from pathlib import Path
from omniad.devices import lock_first_free
print(lock_first_free(["a", "b"], Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def _holder(folder: Path) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


def test_two_processes_never_share_a_device_and_a_killed_one_frees_it(tmp_path):
    first, device_of_first = _holder(tmp_path)
    second, device_of_second = _holder(tmp_path)
    assert {device_of_first, device_of_second} == {0, 1}
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third, device_of_third = _holder(tmp_path)
    assert device_of_third == device_of_first
    for process in (second, third):
        process.kill()
        process.wait()
    for process in (first, second, third):
        assert process.stdout
        process.stdout.close()


def test_gpus_are_counted_as_listed_and_as_visible(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, ["GPU 0: X (UUID: GPU-1)", "GPU 1: X (UUID: GPU-2)"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.count_gpus() == 2
    for visible, expected in [("1", 1), ("", 0), ("0,1", 2), ("-1", 0), ("1,-1", 1), ("0,5", 1), ("GPU-2", 1)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.count_gpus() == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("NoDevFiles", 0),
        ("none", 0),
        ("0,NoDevFiles,1", 1),
        ("0,0", 0),  # a device twice
        ("0,1,0", 0),
        ("GPU-aa1,GPU-aa1", 0),
        ("GPU-aa", 0),  # the beginning of two
        ("GPU-b", 1),
        ("GPU-b,GPU-zz", 1),  # an unknown one ends the list
        ("GPU-zz,GPU-b", 0),
        (" 1 , 2 ", 2),
        ("9" * 30, 0),
        ("x,0", 0),
        (",0", 0),
    ],
)
def test_visible_gpus_are_counted_as_cuda_does(tmp_path, monkeypatch, visible, expected):
    gpus = ["GPU-aa1", "GPU-aa2", "GPU-b1"]
    fake_nvidia_smi(tmp_path, monkeypatch, [f"GPU {number}: X (UUID: {uuid})" for number, uuid in enumerate(gpus)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.count_gpus() == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 1), ("MIG-1", 1), ("MIG-1,MIG-2", 1), ("MIG-9", 0), ("MIG-", 0), ("0", 1), ("", 0), ("NoDevFiles", 0)],
)
def test_a_process_uses_one_slice_of_a_gpu(tmp_path, monkeypatch, visible, expected):
    slices = [f"  MIG 1g.10gb     Device  {number}: (UUID: MIG-{number + 1})" for number in range(2)]
    fake_nvidia_smi(tmp_path, monkeypatch, ["GPU 0: X (UUID: GPU-1)", *slices])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.count_gpus() == expected


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_without_the_driver_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.count_gpus() == 0


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """torch, as if it saw two GPUs; the locks in a folder of the test's own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"uuid-{number}"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_held", held := [])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    yield
    for file in held:
        file.close()


@pytest.mark.parametrize("slurm", [False, True])
def test_each_process_of_a_machine_or_an_allocation_takes_another_gpu(two_gpus, monkeypatch, slurm):
    if slurm:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert {str(devices.pick_device()), str(devices.pick_device())} == {"cuda:0", "cuda:1"}


def test_the_one_gpu_that_slurm_gave_is_used_without_a_lock(two_gpus, monkeypatch):
    """Slurm may share a device between jobs on purpose, and its jobs see no common folder."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [str(devices.pick_device()) for _ in range(2)] == ["cuda:0", "cuda:0"]
