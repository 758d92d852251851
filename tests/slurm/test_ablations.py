"""The miniature ablations, once, as a person types it on a machine without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from calls import QUICK, Call
from cluster import Cluster, wait_until
from devices import DeviceWatch
from project_copy import jobs, snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]

TINY_DEMO = ("--configfile", "config/demo.yaml", "tiny.yaml")


def status(project: Path) -> str:
    command = [sys.executable, "-m", "omniad", "status", "ablations", "--config", "config/demo.yaml"]
    command += ["--config", "tiny.yaml"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def test_the_ablations_run_side_by_side_each_on_a_device_of_its_own(cluster: Cluster, project):
    assert status(project).endswith("17 runs: 17 not started\n")
    with DeviceWatch() as watch, Call(project, "ablations", *QUICK, *TINY_DEMO) as call:
        wait_until(lambda: {"running", "queued"} <= set(status(project).split()), 300)
        during = status(project)
        output = call.finish()
    assert jobs(output)["train"] == jobs(output)["evaluate"] == 17  # 16 ablations and the default
    assert re.search(r"Provided resources: gpu=.*\b16\b", output)  # the profile's cap, on a machine without a GPU
    assert "No GPU" not in output  # nobody trains on the submitting machine
    assert "Table VII" in (project / "results/demo/report.md").read_text()
    assert watch.shared() == []
    assert watch.most_at_once() >= 2
    assert set(watch.devices()) == {(node, str(gpu)) for node in cluster.nodes for gpu in range(cluster.gpus)}
    assert len(re.findall(r" running +.*job \d+$", during, re.MULTILINE)) <= len(cluster.nodes) * cluster.gpus
    assert re.search(r" queued +job \d+$", during, re.MULTILINE)


def test_afterwards_nothing_is_left_to_do_and_status_says_so(project):
    assert "Nothing to be done" in snakemake(project, "--profile", "slurm", "ablations", *QUICK, *TINY_DEMO)
    assert status(project).endswith("17 runs: 17 done\n")
