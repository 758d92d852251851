"""What can go wrong on a cluster, each on one run: nothing is lost or trained twice, no folder has two writers."""

import subprocess
from pathlib import Path

import pytest
import yaml
from calls import (
    CONFIG,
    assert_went_on_to_the_same_result,
    job,
    log_file,
    run_folder,
    start_at_once,
    train,
    train_by_hand,
    trainers,
)
from cluster import Cluster, squeue, wait_until
from project_copy import jobs, snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]


def assert_same_result(project: Path, run: str) -> None:
    reference = run_folder(project, "uninterrupted")
    assert_went_on_to_the_same_result(log_file(project, run), run_folder(project, run), reference)


def test_a_job_that_fails_for_good_names_its_log_and_holds_up_nobody(project):
    (project / "mended.yaml").write_text(yaml.safe_dump({"runs": {"hopeless": {"training": {"learning_rate": 0.001}}}}))
    with train(project, "hopeless", "uninterrupted", options=("--retries", "1")) as call:
        output = call.finish(expect=1)
    log = log_file(project, "hopeless")
    assert str(log.relative_to(project)) in output
    assert "the loss is not finite" in log.read_text()
    assert squeue("%T|%k", "--states=all").count("FAILED|rule_train_wildcards_mvtec_hopeless_0") == 2  # attempts
    assert (run_folder(project, "uninterrupted") / "model.safetensors").exists()
    with train(project, "hopeless", "uninterrupted", config=(*CONFIG, "mended.yaml")) as later:
        assert jobs(later.finish())["train"] == 1


def test_a_preempted_job_is_requeued_and_goes_on(project):
    low_and_a_kind_of_gpu = ("--set-resources", "train:slurm_partition=low", "train:gpu_model=fake")
    with train(project, "preempted", options=low_and_a_kind_of_gpu) as call:
        trainer = call.hold("preempted")
        urgent = ["sbatch", "--partition=high", f"--nodelist={trainer.node}", "--exclusive", "--output=/dev/null"]
        subprocess.run([*urgent, "--wrap=sleep 1"], check=True)
        start_at_once(trainer.job)
        call.finish()
    assert job(trainer.job)["Restarts"] == "1"
    assert trainer.device in ("0", "1")
    assert_same_result(project, "preempted")


def test_a_job_on_a_node_that_goes_down_goes_on_elsewhere(cluster: Cluster, project):
    gres = ("--set-resources", "train:gpu=0", "train:gres=gpu:1")
    with train(project, "on_a_lost_node", options=gres) as call:
        trainer = call.hold("on_a_lost_node")
        cluster.kill_node(trainer.node)
        start_at_once(trainer.job)
        call.finish()
    cluster.start_node(trainer.node)
    assert job(trainer.job)["Restarts"] == "1"
    assert job(trainer.job)["BatchHost"] != trainer.node
    assert trainer.device in ("0", "1")
    assert_same_result(project, "on_a_lost_node")


def test_after_a_killed_snakemake_its_job_makes_room_for_the_next(project):
    with train(project, "orphaned") as call:
        trainer = call.hold("orphaned")
        call.snakemake.kill()
    assert trainers(project, "orphaned") == [trainer]  # nobody ended it

    second = train_by_hand(project, "orphaned")
    assert second.returncode == 1
    assert f"pid {trainer.process} on host" in second.stderr

    with train(project, "orphaned") as locked:
        assert "--unlock" in locked.finish(expect=1)
    snakemake(project, "--unlock", "--configfile", *CONFIG)
    with train(project, "orphaned") as again:
        seen = []
        wait_until(lambda: again.snakemake.poll() is not None or bool(seen.append(trainers(project, "orphaned"))), 180)
        output = again.finish()
    assert f"Slurm job {trainer.job} left by an earlier, killed call: cancelled" in output
    assert job(trainer.job)["JobState"] == "CANCELLED"
    assert max(map(len, seen)) == 1  # never two writers
    assert len({one.process for moment in seen for one in moment}) == 2  # first the orphan, then its successor
    assert_same_result(project, "orphaned")


def test_a_job_at_its_time_limit_goes_on_in_its_next_attempt(project):
    """By itself: Slurm needs more than a minute for a limit of one, and the other cases' faults would reach the job."""
    with train(project, "out_of_time") as call:
        trainer = call.hold("out_of_time")
        subprocess.run(["scontrol", "update", f"JobId={trainer.job}", "TimeLimit=1"], check=True)
        call.finish()
    assert job(trainer.job)["JobState"] == "TIMEOUT"
    assert_same_result(project, "out_of_time")
