"""The cache of features: what it holds, when it is made, and that it changes nothing."""

import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from training_runs import CPU, changed, start_training, tiles_run

import omniad.training.cache
import omniad.training.features
from omniad.config import RunSettings
from omniad.data.packs import open_pack
from omniad.models import build_model
from omniad.models.omniad import OmniAD
from omniad.training.cache import reading_is_slower
from omniad.training.features import TrainingFeatures
from omniad.training.train import train


@pytest.fixture
def run(tmp_path):
    return tiles_run(tmp_path / "data")


def features_of(run: RunSettings, cache_gib: float = 1.0, seed: int = 0) -> TrainingFeatures:
    torch.manual_seed(seed)
    return TrainingFeatures(build_model(run.model), open_pack(run.pack_folder), 3, cache_gib, CPU)


def caches(run: RunSettings) -> list:
    return sorted((run.pack_folder / "features").iterdir())


def test_it_holds_what_the_encoder_gives_rounded_to_half_precision(run):
    features = features_of(run)
    [folder] = caches(run)
    levels = [np.load(folder / f"{level}.npy") for level in range(3)]
    assert [level.shape for level in levels] == [(7, 8, 16, 16), (7, 16, 8, 8), (7, 32, 4, 4)]
    pack = open_pack(run.pack_folder)
    pixels = pack.images[pack.index["split"] == "train"].transpose(0, 3, 1, 2) / 255
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    expected = features.model.encode(torch.from_numpy((pixels - mean) / std).float())
    for level, exact in zip(levels, expected, strict=True):
        assert level.dtype == np.float16
        np.testing.assert_allclose(level, exact.numpy(), rtol=2**-11, atol=2e-5)  # half a unit in the last place


def test_batches_are_the_same_with_and_without_it(run):
    for kept, computed in zip(features_of(run).epoch(0, 0), features_of(run, cache_gib=0).epoch(0, 0), strict=True):
        for level, expected in zip(kept, computed, strict=True):
            assert level.dtype == torch.float32
            # At most one step of half precision apart, where a batch's other images moved the last bit before rounding.
            torch.testing.assert_close(level, expected, rtol=2**-10, atol=1e-5)


def test_an_epoch_may_begin_in_its_middle(run):
    features = features_of(run)
    whole, rest = list(features.epoch(1, 2)), list(features.epoch(1, 2, first_step=1))
    assert (len(whole), len(rest)) == (2, 1)
    assert all(torch.equal(a, b) for a, b in zip(whole[1], rest[0], strict=True))
    assert not list(features.epoch(1, 2, first_step=2))


def test_it_is_made_once_and_anew_for_other_weights(run, monkeypatch):
    features_of(run)
    with monkeypatch.context() as patch:
        patch.setattr(omniad.training.cache, "_make", None)  # may not be called
        features_of(run)
    features_of(run, seed=1)
    assert len(caches(run)) == 2


@pytest.mark.parametrize("obstacle", ["limit", "full disk", "out of range"])
def test_without_room_features_are_computed_anew(run, monkeypatch, caplog, obstacle):
    if obstacle == "full disk":
        monkeypatch.setattr(omniad.training.cache, "ROOM_LEFT", 2**60)
    if obstacle == "out of range":
        encode = OmniAD.encode
        monkeypatch.setattr(OmniAD, "encode", lambda model, images: [1e6 * level for level in encode(model, images)])
    with caplog.at_level(logging.INFO):
        features = features_of(run, cache_gib=1e-5 if obstacle == "limit" else 1.0)
    assert "ecomputing" in caplog.text
    batches = list(features.epoch(0, 0))
    assert len(batches) == 2
    assert all(torch.isfinite(level).all() for batch in batches for level in batch)
    assert not list(run.pack_folder.glob("features/*"))


def test_an_encoder_is_timed_on_as_many_images_as_there_are(run, monkeypatch):
    """Fewer than a batch, which a method without steps takes."""
    monkeypatch.setattr(omniad.training.features, "available_memory", lambda: 1000)
    model = build_model({"method": "patch-memory", "encoder": "resnet18", "encoder_width": 8, "memory": 10})
    features = TrainingFeatures(model, open_pack(run.pack_folder), 16, 1.0, CPU)
    assert [len(level) for level in next(iter(features.all()))] == [7, 7]


@pytest.mark.parametrize("disk_speed", [1.0, 1e15])
def test_features_that_fit_no_memory_are_kept_if_the_disk_is_faster_than_the_encoder(
    run, monkeypatch, caplog, disk_speed
):
    monkeypatch.setattr(omniad.training.features, "available_memory", lambda: 1000)
    monkeypatch.setattr(omniad.training.cache, "DISK_SPEED", disk_speed)
    with caplog.at_level(logging.INFO):
        features = features_of(run)
    assert len(list(features.epoch(0, 0))) == 2
    slow = disk_speed == 1
    assert ("fit neither the GPU nor main memory" in caplog.text) == slow
    assert bool(list(run.pack_folder.glob("features/*"))) != slow


def test_reading_is_compared_with_computing():
    """0.92 MB of ResNet-34's features of an image take 1.8 ms from a SATA drive."""
    assert reading_is_slower(0.92e6, 0.0018)
    assert not reading_is_slower(0.92e6, 0.0019)


def test_a_disk_that_fills_up_meanwhile_is_no_end(run, small_disk, caplog):
    """50 kB of features on a disk with 20 kB left, which the look beforehand did not see."""
    pack = open_pack(run.pack_folder)
    moved = type(pack)(small_disk, pack.index, pack.images, pack.mask_bits, pack.digest)
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    torch.manual_seed(0)
    model = build_model(run.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
        features = TrainingFeatures(model, moved, 3, 1.0, CPU)
    assert "No space left on device" in caplog.text
    assert len(list(features.epoch(0, 0))) == 2
    assert not list((small_disk / "features").iterdir())


def test_what_a_killed_process_left_is_removed(run):
    features_of(run)
    [folder] = caches(run)
    part = folder.rename(folder.with_name(f".{folder.name}.part"))
    (part / omniad.training.cache.NOTE).unlink()
    features_of(run)
    assert caches(run) == [folder]
    assert len(np.load(folder / "0.npy")) == 7


def test_trainings_at_the_same_time_share_one(run, tmp_path):
    settings = changed(run, epochs=1)
    processes = [start_training(settings, tmp_path / f"run{number}") for number in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    [folder] = caches(run)
    assert json.loads((folder / omniad.training.cache.NOTE).read_text())["images"] == 7
    models = {(tmp_path / f"run{number}" / "model.safetensors").read_bytes() for number in range(3)}
    assert len(models) == 1


def test_the_result_differs_less_than_between_seeds(run, tmp_path):
    """Features in half precision against full ones of the same encoder: the last loss, and how far seeds are apart."""
    weights = tmp_path / "encoder.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_file(build_model(run.model).encoder.state_dict(), weights)
    run = run.model_copy(update={"model": run.model.model_copy(update={"encoder_weights": str(weights)})})

    def last_loss(name: str, seed: int) -> float:
        train(run, seed, tmp_path / name, CPU)
        return float((tmp_path / name / "history.csv").read_text().splitlines()[-1].split(",")[1])

    seeds = [last_loss(f"half{seed}", seed) for seed in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmniAD, "caches_features", False)
        full = [last_loss(f"full{seed}", seed) for seed in range(4)]
    print(seeds, full)
    assert np.abs(np.subtract(seeds, full)).max() < np.std(seeds, ddof=1)
