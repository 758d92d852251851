"""The miniature ablations, once, as a person types it on a machine without a GPU."""

import subprocess
import sys

import pytest
from cluster import Cluster
from devices import DeviceWatch
from faults import QUICK
from project_copy import jobs, snakemake

pytestmark = pytest.mark.slurm

TINY_DEMO = ("--configfile", "config/demo.yaml", "tiny.yaml")


def test_the_ablations_run_side_by_side_each_on_a_device_of_its_own(cluster: Cluster, project):
    with DeviceWatch() as watch:
        output = snakemake(project, "--profile", "slurm", "ablations", *QUICK, *TINY_DEMO)
    assert jobs(output)["train"] == jobs(output)["evaluate"] == 17  # 16 ablations and the default
    report = (project / "results/demo/report.md").read_text()
    assert "Table VII" in report
    assert "No GPU" not in output  # nobody trains on the submitting machine
    assert watch.shared() == []
    assert watch.most_at_once() >= 2
    assert set(watch.devices()) == {(node, str(gpu)) for node in cluster.nodes for gpu in range(cluster.gpus)}


def test_afterwards_nothing_is_left_to_do_and_status_says_so(project):
    assert "Nothing to be done" in snakemake(project, "--profile", "slurm", "ablations", *QUICK, *TINY_DEMO)
    command = [sys.executable, "-m", "omniad", "status", "ablations", "--config", "config/demo.yaml"]
    answer = subprocess.run(
        [*command, "--config", "tiny.yaml"], cwd=project, capture_output=True, text=True, check=True
    )
    assert answer.stdout.endswith("17 runs: 17 done\n")
