"""What jobs ask of a cluster follows the run's plan."""

import pytest

from omniad.config import load_settings, run_settings
from omniad.job_size import (
    START_MINUTES,
    TRAINING_FREE,
    TRAINING_S,
    evaluation_minutes,
    images,
    memory_mb,
    relative_cost,
    training_minutes,
)
from omniad.models.checkpoint import METHODS
from omniad.models.complexity import complexity

SETTINGS = load_settings()
DEFAULT = run_settings(SETTINGS, "mvtec", "default")


@pytest.mark.parametrize("run", ["no_learnable", "only_q", "local_only", "depths_2_2_2_2", "resnet18", "resnet50"])
def test_the_relative_cost_is_near_the_counted_one(run):
    """Against the multiply-adds that are counted operation by operation."""
    settings = run_settings(SETTINGS, "mvtec", run)
    counted = complexity(settings.model, 256)[1] / complexity(DEFAULT.model, 256)[1]
    assert 0.8 < relative_cost(settings) / counted < 1.6


def test_mambaads_scans_are_counted_and_grow_with_depth_and_width():
    def cost(**model):
        run = run_settings(SETTINGS, "mvtec", "mambaad")
        return relative_cost(run.model_copy(update={"model": run.model.model_copy(update=model)}))

    others = relative_cost(run_settings(SETTINGS, "mvtec", "rd4ad"))
    scans = 3 * 1 + 4 * 2 + 6 * 4 + 3 * 8  # blocks, times positions x width in those of the first stage
    assert cost() > others
    assert (cost(depths=[3, 4, 6, 4]) - others) / (cost() - others) == pytest.approx((scans + 8) / scans)
    assert (cost(encoder_width=32) - others) / (cost() - others) == pytest.approx(0.5)


def test_the_published_numbers_of_images():
    """MVTec-AD: 3,629 normal training and 1,725 test images; VisA: 8,659 and 2,162."""
    assert (images(DEFAULT, "train"), images(DEFAULT, "test")) == (3629, 1725)
    visa = run_settings(SETTINGS, "visa", "default")
    assert (images(visa, "train"), images(visa, "test")) == (8659, 2162)


def test_time_grows_with_epochs_images_and_attempt():
    def minutes(attempt=1, dataset="mvtec", **training):
        run = run_settings(SETTINGS, dataset, "default")
        return training_minutes(run.model_copy(update={"training": run.training.model_copy(update=training)}), attempt)

    assert minutes(attempt=2) == 2 * minutes()
    assert minutes(dataset="realiad") > minutes(dataset="visa") > minutes()
    assert 1.8 < minutes(epochs=1000) / minutes(epochs=500) < 2
    released = run_settings(SETTINGS, "visa", "released")
    assert evaluation_minutes(released) > evaluation_minutes(run_settings(SETTINGS, "visa", "default"))


def test_a_method_without_steps_is_no_training_of_500_epochs():
    """Its settings have epochs all the same: a preparation of minutes was planned, and reported, as days."""
    assert set(TRAINING_FREE) == {name for name, method in METHODS.items() if method.training_free}
    run = run_settings(SETTINGS, "mvtec", "patchcore")
    assert run.training.epochs == 500
    seconds = 60 * training_minutes(run) - 60 * START_MINUTES
    one_pass = TRAINING_S * 3629 * relative_cost(run)
    assert one_pass < seconds < 5 * one_pass


def test_memory_grows_with_the_largest_class_and_the_attempt():
    def memory(dataset, attempt=1):
        return memory_mb(run_settings(SETTINGS, dataset, "default"), attempt)

    assert [memory("mvtec", attempt) / memory("mvtec") for attempt in (1, 2, 3, 4)] == [1, 2, 3, 3]
    maps = 3800 * 256 * 256 * 4 / 1e6  # of Real-IAD's largest classes, float32
    assert memory("realiad") > 8 * 1024 + 2 * maps > memory("mvtec")
