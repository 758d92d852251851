"""What a step draws ahead of itself, in other threads: DeSTSeg's defects."""

import threading

import pytest
import torch
from training_runs import CPU, changed, tiles_run

import omniad.training.features
import omniad.training.loop
from omniad.config import RunSettings
from omniad.data.packs import open_pack
from omniad.models import build_model
from omniad.models.baselines.destseg import DeSTSeg
from omniad.training.features import TrainingFeatures, step_generator
from omniad.training.train import train


@pytest.fixture
def run(tmp_path) -> RunSettings:
    settings = tiles_run(tmp_path / "data")
    model = {"method": "destseg", "encoder": "resnet18"}
    return settings.model_copy(update={"model": settings.model.model_copy(update=model)})


def features_of(run: RunSettings) -> TrainingFeatures:
    model = build_model(run.model)
    pack = open_pack(run.pack_folder)
    return TrainingFeatures(model, pack, 3, 0, CPU, draw=lambda *arguments: model.draw(run.training, *arguments))


def test_a_batch_has_images_then_planted_defects_then_masks(run):
    images, damaged, masks = next(features_of(run).epoch(0, 0))
    assert (images.shape, damaged.shape, masks.shape) == ((3, 3, 64, 64), (3, 3, 64, 64), (3, 1, 64, 64))
    outside = (masks == 0).expand_as(images)
    assert torch.equal(images[outside], damaged[outside])
    assert not torch.equal(images, damaged)


def test_draws_hang_on_seed_epoch_and_step_alone(run, monkeypatch):
    """Not on the number of threads, on what is drawn elsewhere, or on where an epoch begins."""
    monkeypatch.setattr(omniad.training.features, "usable_cores", lambda: 1)
    whole = list(features_of(run).epoch(5, 1))
    monkeypatch.setattr(omniad.training.features, "usable_cores", lambda: 3)
    torch.manual_seed(7)
    again, rest = list(features_of(run).epoch(5, 1)), list(features_of(run).epoch(5, 1, first_step=1))
    for one, other in [*zip(whole, again, strict=True), (whole[1], rest[0])]:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    words = {
        torch.rand((), generator=step_generator(*key)).item() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(words) == 4


def test_they_are_drawn_in_other_threads_before_they_are_asked_for(run, monkeypatch):
    threads, drawn, first = set(), threading.Semaphore(0), DeSTSeg.draw

    def draw(self, *arguments):
        threads.add(threading.current_thread())
        drawn.release()
        return first(self, *arguments)

    monkeypatch.setattr(DeSTSeg, "draw", draw)
    batches = features_of(run).epoch(0, 0)
    next(batches)
    assert all(drawn.acquire(timeout=60) for _ in range(2))  # the second step's, too
    assert threading.current_thread() not in threads


def test_a_training_that_ends_in_the_middle_goes_on_with_the_same_draws(run, tmp_path, monkeypatch):
    few = changed(run, epochs=3, save_every_s=0.0, learning_rate=0.01)
    train(few, 0, tmp_path / "whole", CPU)
    step, count = omniad.training.loop.train_step, 0

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 4:  # the second of the second epoch
            raise InterruptedError
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(omniad.training.loop, "train_step", interrupted)
        with pytest.raises(InterruptedError):
            train(few, 0, tmp_path / "parts", CPU)
    train(few, 0, tmp_path / "parts", CPU)
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
