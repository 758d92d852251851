"""What a method computes from all training features before its first step, and methods that do nothing else."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import CPU, changed, tiles_run

from omniad.config import ModelSettings, RunSettings
from omniad.data.packs import normalise, open_pack
from omniad.evaluation.evaluate import evaluate
from omniad.models import TrainingFree, load_model
from omniad.models.checkpoint import METHODS
from omniad.models.complexity import MacCounter
from omniad.models.encoder import Encoder
from omniad.models.method import AllFeatures, Prepared
from omniad.runs.progress import read_progress
from omniad.status import _position
from omniad.training.cost import training_hours
from omniad.training.plan import _share_left
from omniad.training.state import LATEST
from omniad.training.train import train

ROUNDS = 4


class Mean(TrainingFree):
    """The mean of all coarsest features, plus what is drawn in each of some rounds; distance from it is anomalous."""

    mean: Tensor
    drawn: Tensor

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = Encoder(settings.encoder, settings.encoder_width)
        self.register_buffer("mean", torch.zeros(self.encoder.channels[-1]))
        self.register_buffer("drawn", torch.zeros(ROUNDS))

    def forward(self, images: Tensor) -> Tensor:
        return self.anomaly_maps(self.encode(images), images.shape[-1])

    def encode(self, images: Tensor) -> list[Tensor]:
        return self.encoder(images)[-1:]

    def prepare(self, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterator[Prepared]:
        if not kept:
            total, images = torch.zeros_like(self.mean), 0
            for (level,) in features:
                total += level.mean(dim=(2, 3)).sum(dim=0)
                images += len(level)
                yield Prepared(0.5 * images / features.images)
            assert images == features.images
            self.mean.copy_(total / images)
        for done in range(int(kept["done"]) if kept else 0, ROUNDS):
            self.drawn[done] = torch.rand(())
            yield Prepared(0.5 + 0.5 * (done + 1) / ROUNDS, {"done": torch.tensor(done + 1)})

    def products(self, images: int, image_size: int) -> list[tuple[int, int]]:
        return [(images, 7)]

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        distance = (features[0] - self.mean[:, None, None]).norm(dim=1, keepdim=True)
        return torch.nn.functional.interpolate(distance, (size, size))[:, 0]


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunSettings:
    monkeypatch.setitem(METHODS, "rd4ad", Mean)
    tiles = tiles_run(tmp_path / "data")
    return tiles.model_copy(update={"model": tiles.model.model_copy(update={"method": "rd4ad"})})


def kill_after(monkeypatch, pieces: int) -> None:
    """SIGTERM while the next `prepare` works on the piece after so many."""
    original = Mean.prepare

    def killed(self: Mean, features: AllFeatures, kept: Mapping[str, Tensor]) -> Iterator[Prepared]:
        for number, piece in enumerate(original(self, features, kept)):
            if number == pieces:
                os.kill(os.getpid(), signal.SIGTERM)
            yield piece

    monkeypatch.setattr(Mean, "prepare", killed)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("batch_size", [3, 100])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_a_training_free_run_sees_every_image_once_and_is_evaluated(run, tmp_path, batch_size, cache_gib):
    run = changed(run, batch_size=batch_size, cache_gib=cache_gib)
    train(run, 0, tmp_path / "run", CPU)
    model, pack = load_model(tmp_path / "run"), open_pack(run.pack_folder)
    assert isinstance(model, Mean)
    rows = (pack.index["split"] == "train").to_numpy().nonzero()[0]
    coarsest = model.encode(normalise(pack.images[rows]))[0].half().float()
    torch.testing.assert_close(model.mean, coarsest.mean(dim=(0, 2, 3)))
    assert len(set(model.drawn.tolist())) == ROUNDS

    with (tmp_path / "run" / "history.csv").open() as file:
        assert list(csv.reader(file)) == [["epoch", "loss", "learning_rate", "gradient_norm", "seconds"]]
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())["training"]
    assert 0 <= provenance["preparing_s"] <= provenance["wall_s"]
    evaluate(tmp_path / "run", CPU)
    assert (tmp_path / "run" / "metrics.csv").is_file()


@pytest.mark.parametrize(("pieces", "share"), [(1, None), (4, 0.75)])
def test_killed_and_started_again_it_is_the_same_bit_for_bit(run, tmp_path, monkeypatch, pieces, share):
    """Three batches of seven images that keep nothing, then four rounds that keep what they need."""
    train(run, 0, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        kill_after(patch, pieces)
        with pytest.raises(SystemExit) as ended:
            train(run, 0, tmp_path / "killed", CPU)
    assert ended.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "killed" / "state" / LATEST).exists() == (share is not None)
    progress = json.loads((tmp_path / "killed" / "state" / "progress.json").read_text())
    assert progress["prepared"] == (share or pytest.approx(0.5 * 6 / 7, abs=1e-4))
    shown = _position(read_progress(tmp_path / "killed"))
    assert shown == f"{progress['prepared']:.0%} prepared"
    assert _share_left(tmp_path / "killed") == pytest.approx(1 - progress["prepared"])
    train(run, 0, tmp_path / "killed", CPU)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_finished_one_is_not_prepared_again(run, tmp_path, monkeypatch):
    train(run, 0, tmp_path / "run", CPU)
    first = weights(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    monkeypatch.setattr(Mean, "prepare", lambda *_: pytest.fail("prepared again"))
    train(run, 0, tmp_path / "run", CPU)
    assert weights(tmp_path / "run") == first


def test_the_plan_counts_one_pass_of_the_encoder_and_the_products_and_no_epochs(run):
    with MacCounter() as counter, torch.no_grad():
        Mean(run.model).encode(torch.zeros(1, 3, 64, 64))
    work = 1000 * counter.macs + 1000 * 7
    assert training_hours(run, images=1000, speed=1e9) == pytest.approx(work / 1e9 / 3600)


def test_training_steps_are_refused(run):
    model = Mean(run.model)
    assert model.make_optimizers(run.training) == []
    with pytest.raises(NotImplementedError, match="Mean has no training steps"):
        model.loss([], run.training, 0.0)
