"""A training's memory, counted on shapes, against what autograd really keeps; where features lie; what is advised."""

import pytest
import torch

from omniad.config import load_settings, run_settings
from omniad.models import build_model
from omniad.training.features import TrainingFeatures
from omniad.training.memory import shortage, training_memory


@pytest.fixture(scope="module")
def settings():
    return load_settings()


@pytest.mark.parametrize("changes", [{}, {"variant": "released"}, {"first_attention": "none"}])
def test_what_autograd_keeps_is_counted_without_computing(settings, changes):
    run = run_settings(settings, "mvtec", "default")
    small = {"encoder": "resnet18", "encoder_width": 16, "depths": [1, 2, 1, 1], "tokens": 16, "heads": 2}
    run = run.model_copy(
        update={
            "model": run.model.model_copy(update=small | changes),
            "data": run.data.model_copy(update={"image_size": 128}),
            "training": run.training.model_copy(update={"batch_size": 2}),
        }
    )
    counted = training_memory(run)
    torch.manual_seed(0)
    model = build_model(run.model).train()
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    features = model.encode(torch.randn(2, 3, 128, 128))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.loss(features, run.training, 0.0)
    loss.backward()
    measured = sum(size for place, size in kept.items() if place not in weights)
    assert counted is not None and counted.kept == pytest.approx(measured, rel=0.03)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted.states == 12 * trained  # the gradient and two moments, of four bytes
    assert counted.weights >= 4 * sum(p.numel() for p in model.parameters())


def test_full_size_agrees_with_a_gpu(settings):
    """A step of the default model, measured on an H200: its peak was 5,179 MiB, with four batches of features."""
    counted = training_memory(run_settings(settings, "mvtec", "default"))
    assert counted is not None
    assert counted.total / 2**20 == pytest.approx(5179, rel=0.05)


def test_it_is_unknown_where_nothing_is_trained(settings):
    assert training_memory(run_settings(settings, "mvtec", "patchcore")) is None


def test_features_get_what_training_leaves(monkeypatch):
    features = object.__new__(TrainingFeatures)
    features.device, features.wanted = torch.device("cuda"), 3 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 16 * 2**30))
    assert features._room_on_gpu() == pytest.approx(6 * 2**30)  # of nine tenths of what is free
    features.wanted = None
    assert features._room_on_gpu() == pytest.approx(4 * 2**30)
    features.device = torch.device("cpu")
    assert features._room_on_gpu() == 0


def test_without_memory_what_changes_no_number_is_named_first(settings):
    run = run_settings(settings, "mvtec", "default")
    assert shortage(run, torch.device("cpu")) == (
        "out of memory on cpu: a lower training.batch_size (now 16) changes the result"
    )
    text = shortage(run, torch.device("cuda", 0))
    assert text.startswith("out of memory on cuda:0 (this training takes about 5.")
    order = [text.index(word) for word in ("training.cache_gib: 0", "other programs", "one with more", "batch_size")]
    assert order == sorted(order)
