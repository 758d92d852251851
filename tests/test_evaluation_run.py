"""Evaluation of a tiny run folder, from images on disk to its result files."""

from __future__ import annotations

import csv
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import exact_metrics
from PIL import Image
from scipy.ndimage import gaussian_filter

from omniad.cli import main
from omniad.config import RunSettings, Settings, load_settings, merge, run_settings, to_yaml
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.data.packs import PUBLISHED, open_pack
from omniad.errors import UserError
from omniad.evaluation import evaluate as evaluation
from omniad.evaluation.evaluate import evaluate
from omniad.metrics import METRICS, class_metrics
from omniad.metrics.definitions import SEVEN
from omniad.models import build_model, save_model

SIZE = 64
TINY = {"encoder": "resnet18", "encoder_width": 8, "depths": [1, 1, 1, 1], "encoder_weights": "random", "tokens": 4}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> RunSettings:
    """Three classes in MVTec-AD's layout, packed: "bolt" and "nut" with two kinds of defect, "pure" without any."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def write(file: Path, pixels: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)

    for name in ("bolt", "nut", "pure"):
        for split, number in (("train/good", 1), ("test/good", 4), ("test/dent", 2), ("test/hole", 3)):
            for image in range(0 if name == "pure" and "good" not in split else number):
                pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                if "good" not in split:
                    mask = np.zeros((SIZE, SIZE), np.uint8)
                    mask[10 : 30 + image, 20:40] = 255
                    pixels[mask > 0] //= 8
                    write(folder / "raw" / name / "ground_truth" / split[5:] / f"{image:03}_mask.png", mask)
                write(folder / "raw" / name / split / f"{image:03}.png", pixels)
    values = merge(
        load_settings().model_dump(),
        {
            "datasets": ["parts"],
            "sources": {"parts": {"title": "Parts", "layout": "mvtec", "folder": str(folder / "raw")}},
            "data": {"prepared": str(folder / "prepared"), "image_size": SIZE},
            "model": TINY,
            "evaluation": {"batch_size": 4, "sigma": 2.0},
        },
    )
    resolved = run_settings(Settings.model_validate(values), "parts", "default")
    index = resolved.pack_folder.parent / "index.csv"
    write_index(resolved.source, index)
    write_pack(resolved.source, index, resolved.pack_folder, SIZE)
    return resolved


def make_run(settings: RunSettings, folder: Path, **model: Any) -> Path:
    """A run folder with a model of random weights."""
    changed = settings.model_copy(update={"model": settings.model.model_copy(update=model)})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(changed))
    torch.manual_seed(0)
    save_model(build_model(changed.model), changed.model, folder / "model.safetensors")
    return folder


def read_metrics(folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return {(row["class"], row["metric"], row["definition"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> Path:
    folder = make_run(settings, tmp_path_factory.mktemp("runs") / "run")
    evaluate(folder, torch.device("cpu"), keep_maps=True)
    return folder


def test_all_maps_are_kept_only_when_asked_for(settings, tmp_path):
    folder = make_run(settings, tmp_path / "run")
    assert main(["evaluate", str(folder)]) == 0
    assert not (folder / "maps").exists()
    assert main(["evaluate", str(folder), "--maps"]) == 0
    assert {path.stem for path in (folder / "maps").iterdir()} == {"bolt", "nut", "pure"}


def test_the_means_are_told_with_the_file_that_has_all(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = make_run(settings, tmp_path / "run")
    assert main(["evaluate", str(folder)]) == 0
    told = caplog.messages[-1]
    mean = float(read_metrics(folder)["mean", "P-AUROC", "exact"]["value"] or "nan")
    assert told.startswith(f"{folder / 'metrics.csv'}: I-AUROC ")
    assert f"P-AUROC {'undefined' if np.isnan(mean) else f'{100 * mean:.1f}'}," in told
    assert "AU-PRO undefined" in told  # the class "pure" has no defects


def test_scores_are_the_maxima_of_the_maps(settings, finished):
    scores = pd.read_csv(finished / "scores.csv")
    assert list(scores.columns) == ["image", "class", "label", "score"]
    pack = open_pack(settings.pack_folder)
    test = pack.index[pack.index["split"] == "test"]
    assert sorted(scores["image"]) == sorted(test["image"])
    maps = np.concatenate([np.load(finished / "maps" / f"{name}.npy") for name in ("bolt", "nut", "pure")])
    assert maps.dtype == np.float32
    assert np.array_equal(scores["score"].to_numpy(np.float32), maps.max(axis=(1, 2)))
    anomalous = scores.loc[scores["label"] == 1, "class"].tolist()
    assert anomalous == ["bolt"] * 5 + ["nut"] * 5


def test_maps_are_the_model_s(settings, finished):
    """One image through model, cosine distance, PIL-free resize and SciPy's filter."""
    from omniad.data.packs import normalise
    from omniad.models import load_model

    pack = open_pack(settings.pack_folder)
    scores = pd.read_csv(finished / "scores.csv")
    image = scores.loc[scores["class"] == "nut", "image"].tolist()[6]
    row = pack.index["image"].tolist().index(image)
    with torch.inference_mode():
        features, reconstructions = load_model(finished)(normalise(pack.images[row : row + 1]))
    total = np.zeros((SIZE, SIZE))
    for f, r in zip(features, reconstructions, strict=True):
        distance = 1 - torch.cosine_similarity(f, r)[None]
        total += torch.nn.functional.interpolate(distance, (SIZE, SIZE), mode="bilinear", align_corners=True)[
            0, 0
        ].numpy()
    expected = gaussian_filter(total / 9, 2.0)
    np.testing.assert_allclose(np.load(finished / "maps" / "nut.npy")[6], expected, rtol=0, atol=1e-6)


def test_metrics_are_those_of_the_maps(settings, finished):
    table = read_metrics(finished)
    assert len(table) == 4 * len(METRICS) * 2  # three classes and the mean
    pack = open_pack(settings.pack_folder)
    for name in ("bolt", "nut"):
        rows = pack.index.loc[(pack.index["class"] == name) & (pack.index["split"] == "test")]
        maps, members = np.load(finished / "maps" / f"{name}.npy"), rows.index.to_numpy()
        masks, published = pack.masks(members), pack.masks(members, PUBLISHED)
        oracle = exact_metrics(maps, masks, np.array(rows["label"]))
        for metric in SEVEN:
            assert float(table[name, metric, "exact"]["value"]) == pytest.approx(oracle[metric], abs=1e-9)
        for metric, value in class_metrics(maps, published, definition="published").items():
            assert float(table[name, metric, "published"]["value"]) == pytest.approx(value, abs=1e-12)
        assert table[name, "mAD", "exact"]["reason"] == ""


def test_an_undefined_class_leaves_the_mean_undefined_and_says_so(finished):
    table = read_metrics(finished)
    for definition in ("exact", "published"):
        assert table["pure", "P-AP", definition]["value"] == ""
        assert table["pure", "P-AP", definition]["reason"] == "no anomalous pixel"
        assert table["mean", "P-AP", definition]["value"] == ""
        assert table["mean", "P-AP", definition]["reason"] == "undefined for pure"
        assert table["mean", "mAD", definition]["reason"] == "undefined for pure"


def test_the_mean_is_the_plain_mean_over_classes(settings, finished, tmp_path, monkeypatch):
    """The same run on a data set without the class that has no defect."""
    pack = open_pack(settings.pack_folder)
    without = type(pack)(
        pack.folder, pack.index.loc[pack.index["class"] != "pure"], pack.images, pack.mask_bits, pack.digest
    )
    monkeypatch.setattr(evaluation, "open_pack", lambda folder: without)
    folder = make_run(settings, tmp_path / "run")
    evaluate(folder, torch.device("cpu"))
    before, table = read_metrics(finished), read_metrics(folder)
    for metric in METRICS:
        values = [float(table[name, metric, "exact"]["value"]) for name in ("bolt", "nut")]
        assert values == [float(before[name, metric, "exact"]["value"]) for name in ("bolt", "nut")]
        assert float(table["mean", metric, "exact"]["value"]) == pytest.approx(np.mean(values), abs=1e-12)
        assert table["mean", metric, "exact"]["spread"] == ""
    assert not (folder / "maps").exists()  # only when asked for


def test_curves_and_examples(settings, finished):
    with np.load(finished / "curves.npz", allow_pickle=False) as curves:
        assert {name for name in curves if name.startswith("bolt/")} == {
            f"bolt/{curve}" for curve in ("image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro")
        }
        assert not [name for name in curves if name.startswith("pure/")]
        assert all(curves[name].shape[0] == 2 and curves[name].shape[1] <= 512 for name in curves)
    scores = pd.read_csv(finished / "scores.csv")
    nut = scores.loc[scores["class"] == "nut"]
    maps, order = np.load(finished / "maps" / "nut.npy"), nut["image"].tolist()
    with np.load(finished / "examples" / "nut.npz", allow_pickle=False) as kept:
        kinds, images, values = kept["kind"].tolist(), kept["image"].tolist(), kept["score"]
        assert kinds == ["figure"] * 2 + ["miss"] * 3 + ["false_alarm"] * 3
        assert images[:2] == ["nut/test/dent/000.png", "nut/test/hole/000.png"]
        assert values[2:5].tolist() == sorted(values[2:5])
        assert values[2] == np.float32(nut.loc[nut["label"] == 1, "score"].min())
        assert values[5] == np.float32(nut.loc[nut["label"] == 0, "score"].max())
        assert (kept["images"].dtype, kept["maps"].dtype) == (np.uint8, np.float16)
        for image, label, mask, one in zip(images, kept["label"], kept["masks"], kept["maps"], strict=True):
            assert label == mask.any()
            assert np.array_equal(one, maps[order.index(image)].astype(np.float16))
    with np.load(finished / "examples" / "pure.npz", allow_pickle=False) as kept:
        assert kept["kind"].tolist() == ["false_alarm"] * 3


def test_two_evaluations_write_the_same_bytes(settings, finished, tmp_path):
    folder = make_run(settings, tmp_path / "run")
    evaluate(folder, torch.device("cpu"))
    for name in ("scores.csv", "metrics.csv", "curves.npz", "examples/bolt.npz"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_random_projection_brings_a_spread(settings, tmp_path):
    random = make_run(settings, tmp_path / "random", variant="released")
    evaluate(random, torch.device("cpu"))
    row = read_metrics(random)["bolt", "P-AP", "exact"]
    assert float(row["spread"]) > 0
    fixed = make_run(settings, tmp_path / "fixed", variant="released", projection="none")
    evaluate(fixed, torch.device("cpu"))
    assert read_metrics(fixed)["bolt", "P-AP", "exact"]["spread"] == ""


def test_one_class_is_in_memory_at_a_time(settings, tmp_path, monkeypatch):
    made: list[weakref.ref] = []
    alive = []
    compute = evaluation.compute_maps

    def watched(*arguments):
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))
        maps, scores = compute(*arguments)
        made.append(weakref.ref(maps))
        return maps, scores

    monkeypatch.setattr(evaluation, "compute_maps", watched)
    evaluate(make_run(settings, tmp_path / "run"), torch.device("cpu"))
    assert len(made) == 3
    assert max(alive) <= 1  # at most the one before, while the next is made


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_too_large_for_the_memory_is_halved_for_good(settings, finished, tmp_path, monkeypatch, caplog, error):
    tried = []
    normalise = evaluation.normalise

    def limited(images, limit=2):
        tried.append(len(images))
        if len(images) > limit:
            raise error
        return normalise(images)

    monkeypatch.setattr(evaluation, "normalise", limited)
    folder = make_run(settings, tmp_path / "run")
    evaluate(folder, torch.device("cpu"))
    assert max(tried[1:]) == 2 and tried[0] == 4
    assert "batches of 4 images do not fit in the memory of cpu; using 2" in caplog.text
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "scores.csv"), pd.read_csv(finished / "scores.csv"), check_exact=False, rtol=1e-5
    )
    monkeypatch.setattr(evaluation, "normalise", lambda images: limited(images, limit=0))
    with pytest.raises(UserError, match="out of memory on cpu, even with one image"):
        evaluate(folder, torch.device("cpu"))


def test_another_error_of_a_batch_is_not_taken_for_want_of_memory(settings, tmp_path, monkeypatch):
    def fail(images):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(evaluation, "normalise", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        evaluate(make_run(settings, tmp_path / "run"), torch.device("cpu"))


def test_a_map_that_is_not_finite_is_an_error_that_names_the_image(settings, tmp_path, monkeypatch):
    compute = evaluation.compute_maps

    def broken(*arguments):
        maps, scores = compute(*arguments)
        maps[1, 0, 0] = math.nan
        return maps, scores

    monkeypatch.setattr(evaluation, "compute_maps", broken)
    folder = make_run(settings, tmp_path / "run")
    with pytest.raises(UserError, match=r"image 1 \(bolt/test/dent/001.png\): contains NaN"):
        evaluate(folder, torch.device("cpu"))
    assert not (folder / "metrics.csv").exists()
