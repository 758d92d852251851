"""Training: the loss against closed forms, the schedule, and a small run from pack to checkpoint."""

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import CPU, TINY, changed, tiles_run

import omniad.training.loop
from omniad.config import ModelSettings, RunSettings, TrainingSettings
from omniad.data.packs import open_pack
from omniad.errors import UserError
from omniad.evaluation.evaluate import evaluate
from omniad.models import build_model, load_model
from omniad.models.omniad import reconstruction_loss
from omniad.training.compiling import compile_blocks
from omniad.training.epoch_metrics import epoch_metrics
from omniad.training.features import TrainingFeatures
from omniad.training.loop import rate_factor
from omniad.training.state import LATEST
from omniad.training.train import train


def test_both_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    targets = [rng.normal(size=(2, c, s, s)) for c, s in [(3, 4), (6, 2), (12, 1)]]
    outputs = [rng.normal(size=target.shape) for target in targets]
    # Equation 6, written out: per image the squared norm over H_k W_k, summed over k; then the mean of the batch.
    eq6 = np.mean(
        [
            sum(np.sum((t[b] - o[b]) ** 2) / (t.shape[2] * t.shape[3]) for t, o in zip(targets, outputs, strict=True))
            for b in range(2)
        ]
    )
    mean = sum(np.mean((t - o) ** 2) for t, o in zip(targets, outputs, strict=True))
    tensors = [[torch.from_numpy(array) for array in arrays] for arrays in (targets, outputs)]
    assert reconstruction_loss(*tensors, kind="eq6").item() == pytest.approx(eq6, rel=1e-12)
    assert reconstruction_loss(*tensors, kind="mean").item() == pytest.approx(mean, rel=1e-12)


def test_the_rate_drops_once_after_four_fifths():
    settings = TrainingSettings(epochs=500)
    rates = [settings.learning_rate * rate_factor(epoch, settings) for epoch in range(500)]
    assert rates[:400] == [1e-3] * 400
    assert rates[400:] == [pytest.approx(1e-4)] * 100


def test_weight_decay_spares_one_dimensional_parameters_and_the_encoder_is_left_out():
    model = build_model(ModelSettings(**TINY))
    decayed, spared = model.make_optimizers(TrainingSettings())[0].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim <= 1 for parameter in spared["params"])
    trained = {id(parameter) for group in (decayed, spared) for parameter in group["params"]}
    assert trained.isdisjoint(id(parameter) for parameter in model.encoder.parameters())
    outside = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    assert trained == {id(parameter) for parameter in outside}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunSettings:
    return tiles_run(tmp_path_factory.mktemp("data"))


def test_an_epoch_is_a_permutation_without_its_last_incomplete_batch(run):
    pack = open_pack(run.pack_folder)
    model = build_model(run.model)
    features = TrainingFeatures(model, pack, 3, cache_gib=1, device=torch.device("cpu"))
    assert features.steps_per_epoch == 2  # of 7 images
    finest = [batch[0] for batch in features.epoch(seed=0, epoch=0)]
    again = [batch[0] for batch in features.epoch(seed=0, epoch=0)]
    other = [batch[0] for batch in features.epoch(seed=0, epoch=1)]
    assert [batch.shape for batch in finest] == [(3, 8, 16, 16)] * 2
    assert all(torch.equal(a, b) for a, b in zip(finest, again, strict=True))
    assert not torch.equal(torch.cat(finest), torch.cat(other))
    assert len(torch.cat(finest).flatten(1).unique(dim=0)) == 6


def test_fewer_images_than_a_batch_is_told(run):
    with pytest.raises(UserError, match="7 training images are fewer than one batch of 8"):
        TrainingFeatures(build_model(run.model), open_pack(run.pack_folder), 8, 1, torch.device("cpu"))


def test_a_run_folder_is_complete_and_the_same_twice(run, tmp_path):
    for name in ("one", "two"):
        train(run, seed=3, out=tmp_path / name)
    first, second = tmp_path / "one", tmp_path / "two"
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "config.yaml").read_bytes() == (second / "config.yaml").read_bytes()

    with (first / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4", "5"]
    assert float(history[-1]["loss"]) < float(history[0]["loss"])
    assert [float(row["learning_rate"]) for row in history] == pytest.approx([1e-3] * 4 + [1e-4])

    provenance = json.loads((first / "provenance.json").read_text())
    assert provenance["seed"] == 3
    assert {"commit", "versions", "hardware", "data", "model_sha256", "config_sha256"} <= set(provenance)
    assert str(tmp_path).encode() not in (first / "model.safetensors").read_bytes()

    model = load_model(first)
    assert not model.training
    assert all(torch.isfinite(level).all() for level in model(torch.zeros(1, 3, 64, 64))[1])


def test_another_seed_is_another_model(run, tmp_path):
    train(run, seed=4, out=tmp_path / "four")
    train(run, seed=5, out=tmp_path / "five")
    assert (tmp_path / "four/model.safetensors").read_bytes() != (tmp_path / "five/model.safetensors").read_bytes()


def test_missing_weights_and_packs_are_told_before_anything_is_written(run, tmp_path):
    absent = run.model_copy(update={"model": run.model.model_copy(update={"encoder_weights": "absent.pth"})})
    with pytest.raises(UserError, match=r"absent\.pth"):
        train(absent, seed=0, out=tmp_path / "run")
    unpacked = run.model_copy(update={"data": run.data.model_copy(update={"image_size": 96})})
    with pytest.raises(UserError, match="no pack here"):
        train(unpacked, seed=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_metrics_by_epoch_change_nothing(run, tmp_path):
    released = run.model_copy(update={"model": run.model.model_copy(update={"variant": "released"})})
    for name, every in (("watched", 2), ("unwatched", 0)):
        train(changed(released, epochs=4, evaluate_every=every), 0, tmp_path / name, CPU)
    watched, unwatched = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("watched", "unwatched"))
    assert watched == unwatched
    assert not (tmp_path / "unwatched" / "epochs.csv").exists()

    evaluate(tmp_path / "watched", CPU)
    metrics = pd.read_csv(tmp_path / "watched" / "metrics.csv").query("`class` == 'mean'")
    by_epoch = pd.read_csv(tmp_path / "watched" / "epochs.csv")
    assert sorted(set(by_epoch["epoch"])) == [2, 4]
    last = by_epoch.query("epoch == 4").merge(metrics, on=["metric", "definition"])
    assert len(last) == 2 * 8
    assert last["value_x"].tolist() == pytest.approx(last["value_y"].tolist(), rel=1e-6)


def test_without_test_images_there_are_no_metrics_by_epoch(run):
    pack = open_pack(run.pack_folder)
    good = replace(pack, index=pack.index.assign(split="train"))
    assert epoch_metrics(build_model(run.model), run, good, CPU, epoch=1) == []


def test_a_loss_that_is_not_finite_tells_step_images_and_the_last_good_state(run, tmp_path):
    wild = changed(run, learning_rate=1e30, clip_norm=0.0, save_every_s=0.0)
    with pytest.raises(UserError) as caught:
        train(wild, 0, tmp_path, CPU)
    told = str(caught.value)
    assert "the loss is not finite in epoch 1, step 2 of 2; lower training.learning_rate" in told
    assert f"The last good state is in {tmp_path / 'state'}" in told
    assert told.count("tile/train/good/") == 3
    state = torch.load(tmp_path / "state" / LATEST, weights_only=True)
    assert state["position"]["step"] == 1
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_tells_which_setting_to_lower(run, tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(omniad.training.loop, "train_step", fail)
    with pytest.raises(UserError, match=r"out of memory on cpu: a lower training.batch_size \(now 3\)"):
        train(run, 0, tmp_path, CPU)


def test_bf16_learns_much_the_same(run, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        training = run.training.model_copy(update={"precision": precision})
        train(run.model_copy(update={"training": training}), seed=0, out=tmp_path / precision)
        with (tmp_path / precision / "history.csv").open() as file:
            losses[precision] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.05)


def test_every_block_of_the_decoder_is_compiled(run, monkeypatch):
    """Compilation itself takes minutes: `benchmarks/training.py` does it."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(self))
    model = build_model(run.model.model_copy(update={"depths": [1, 2, 3, 1]}))
    compile_blocks(model, torch.device("cpu"))
    assert [type(block).__name__ for block in compiled] == ["OmniBlock"] * 7


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at an input's, PyTorch warns it
@pytest.mark.parametrize("variant", ["equations", "released"])
def test_blocks_are_traced_whole(run, variant):
    """`fullgraph` refuses what would be left to Python. No code is generated here, which takes minutes."""
    torch.manual_seed(0)
    model = build_model(run.model.model_copy(update={"variant": variant, "depths": [1, 2, 1, 1]})).train()
    features = model.encode(torch.randn(2, 3, 64, 64))
    losses = []
    for compiled in (False, True):
        for block in model.blocks() if compiled else ():
            block.compile(backend="eager", dynamic=False, fullgraph=True)
        model.seed_draws(1)
        torch.manual_seed(1)  # the jitter's
        losses.append(model.loss(features, run.training, 0.0))
        losses[-1].backward()
    torch.testing.assert_close(*losses)


def test_without_a_compiler_blocks_stay_as_they_are(run, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    compile_blocks(build_model(run.model), torch.device("cpu"))
    assert "no compiler (g++) found, so nothing is compiled" in caplog.text
