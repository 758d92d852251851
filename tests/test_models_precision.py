"""fp32 is fp32 wherever a model runs: PyTorch lets a GPU's convolutions use TF32 unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detector_runs import make_run, write_images
from training_runs import CPU, changed, tiles_run

from omniad.detector import export as exporting
from omniad.detector.detector import Detector
from omniad.evaluation.evaluate import evaluate
from omniad.models.encoder import FrozenEncoder
from omniad.models.precision import arithmetic
from omniad.training.train import train

FLAGS: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn


def test_fp32_is_fp32_and_tf32_is_asked_for():
    before = [flag.allow_tf32 for flag in FLAGS]
    for precision in ("fp32", "tf32", "bf16"):
        with arithmetic(precision, torch.device("cpu")):
            assert [flag.allow_tf32 for flag in FLAGS] == [precision == "tf32"] * 2
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == (
                torch.bfloat16 if precision == "bf16" else torch.float32
            )
    assert [flag.allow_tf32 for flag in FLAGS] == before


@pytest.fixture
def seen(monkeypatch) -> Iterator[list[bool]]:
    """Whether TF32 was allowed at each of the encoder's forward passes; outside omniad it is."""
    before = [flag.allow_tf32 for flag in FLAGS]
    for flag in FLAGS:
        flag.allow_tf32 = True
    passes: list[bool] = []
    forward = FrozenEncoder.forward

    def watched(self: FrozenEncoder, images: torch.Tensor) -> list[torch.Tensor]:
        passes.append(any(flag.allow_tf32 for flag in FLAGS))
        return forward(self, images)

    monkeypatch.setattr(FrozenEncoder, "forward", watched)
    yield passes
    for flag, value in zip(FLAGS, before, strict=True):
        flag.allow_tf32 = value


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_training_and_evaluation(tmp_path, seen, cache_gib):
    run = changed(tiles_run(tmp_path), epochs=1, cache_gib=cache_gib, evaluate_every=1, precision="tf32")
    train(run, 0, tmp_path / "run", CPU)
    trained = len(seen)
    evaluate(tmp_path / "run", CPU)
    assert 0 < trained < len(seen)
    assert not any(seen)
    assert all(flag.allow_tf32 for flag in FLAGS)


def test_predict(tmp_path, seen):
    write_images(tmp_path / "images", 2)
    list(Detector(make_run(tmp_path / "run"), "cpu").score(tmp_path / "images"))
    assert seen == [False]


def test_the_check_of_an_export(tmp_path, seen, monkeypatch):
    def write(whole: object, size: int, file: Path) -> None:  # what follows the reference that it is checked against
        raise ImportError(name="nothing")

    monkeypatch.setitem(exporting.FORMATS, "pt2", (write, None))
    with pytest.raises(Exception, match="nothing"):
        exporting.export(make_run(tmp_path / "run"), tmp_path / "graph.pt2", "pt2")
    assert seen == [False, False]  # batches of 1 and 3
