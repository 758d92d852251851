"""`omniad evaluate` of a run on tiles: metrics of whole images at their own size and at the model's."""

import csv
from pathlib import Path

import numpy as np
import pytest
from detector_runs import SIZE, TINY, no_speed_test, write_image
from oracles import exact_metrics, f1_over_every_threshold, sorted_au_pro
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from omniad.cli import main
from omniad.detector.detector import Detector
from omniad.detector.evaluate import evaluate_tiled
from omniad.detector.fit import fit
from omniad.metrics import METRICS


def write_class(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Good images, and one good and one spoiled test image of each size, with its mask."""
    for number in range(4):
        write_image(folder / f"train/good/{number}.png", number, (100, 130))
    for number, size in enumerate(sizes):
        write_image(folder / f"test/good/{number}.png", 10 + number, size)
        pixels = write_image(folder / f"test/hole/{number}.png", 20 + number, size).copy()
        mask = np.zeros(size, np.uint8)
        mask[30 + 10 * number : 50, 40:60] = 255
        pixels[mask > 0] = 0
        Image.fromarray(pixels).save(folder / f"test/hole/{number}.png")
        (folder / "ground_truth/hole").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / f"ground_truth/hole/{number}_mask.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A class whose test images have one size, and one whose images have two."""
    folder = tmp_path_factory.mktemp("own")
    write_class(folder / "parts/even", [(100, 130), (100, 130)])
    write_class(folder / "parts/mixed", [(100, 130), (90, 95)])
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        fit(folder / "parts", folder / "run", epochs=1, settings=TINY, tile=SIZE, overlap=16, scale=0.75)
    evaluate_tiled(folder / "run", keep_maps=True)
    return folder / "run"


def lines(file: Path, class_: str) -> dict[str, dict[str, str]]:
    with file.open(newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if (row["class"], row["definition"]) == (class_, "exact")]
    return {row["metric"]: row for row in rows}


def values(file: Path, class_: str) -> dict[str, float]:
    return {name: float(row["value"]) for name, row in lines(file, class_).items()}


def scored(run: Path, class_: str) -> tuple[list, list[np.ndarray], np.ndarray]:
    """What the detector makes of a class's test images, their masks and labels."""
    folder = run.parent / "parts" / class_
    found = list(Detector(run, "cpu").score([folder / "test"]))
    masks = []
    for one in found:
        mask = folder / "ground_truth" / one.path.parent.name / f"{one.path.stem}_mask.png"
        masks.append(np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros(one.size, bool))
    return found, masks, np.array([int(one.path.parent.name == "hole") for one in found])


def images_alone(found: list, labels: np.ndarray) -> dict[str, float]:
    scores = np.array([one.score for one in found])
    return {
        "I-AUROC": float(roc_auc_score(labels, scores)),
        "I-AP": float(average_precision_score(labels, scores)),
        "I-F1max": f1_over_every_threshold(scores, labels > 0),
    }


def close(found: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_at_full_size_they_are_those_of_the_full_size_maps(run):
    found, masks, labels = scored(run, "even")
    maps, masks = np.stack([one.full_size_map() for one in found]), np.stack(masks)
    assert maps.shape == (4, 100, 130)
    expected = images_alone(found, labels) | {
        "P-AUROC": float(roc_auc_score(masks.ravel(), maps.ravel())),
        "P-AP": float(average_precision_score(masks.ravel(), maps.ravel())),
        "AU-PRO": sorted_au_pro(maps, masks),
    }
    close(values(run / "metrics_full_size.csv", "even"), expected)


@pytest.mark.parametrize("class_", ["even", "mixed"])
def test_at_the_models_size_they_are_those_of_maps_and_masks_made_small(run, class_):
    def small(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    found, masks, labels = scored(run, class_)
    maps = np.stack([small(one.map) for one in found])
    np.testing.assert_allclose(np.load(run / f"maps/{class_}.npy"), maps, atol=1e-6)
    expected = exact_metrics(maps, np.stack([small(mask.astype(np.float32)) > 0.5 for mask in masks]), labels)
    close(values(run / "metrics.csv", class_), expected | images_alone(found, labels))


def test_pixel_metrics_of_images_of_several_sizes_are_undefined_at_full_size(run):
    full, small = (lines(run / name, "mixed") for name in ("metrics_full_size.csv", "metrics.csv"))
    for metric in METRICS:
        if metric.startswith("I-"):
            assert full[metric]["value"] == small[metric]["value"] != ""
        else:
            assert (full[metric]["value"], full[metric]["reason"]) == ("", "the images have several sizes")
    assert lines(run / "metrics_full_size.csv", "mean")["P-AP"]["reason"] == "undefined for mixed"


def test_nothing_is_left_behind_and_a_run_without_test_images_is_told(run, tmp_path, capsys):
    assert not list(run.glob(".*"))
    for number in range(2):
        write_image(tmp_path / f"slabs/{number}.png", number, (100, 90))
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        fit(tmp_path / "slabs", tmp_path / "run", epochs=1, settings=TINY, tile=SIZE)
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert "no test images in the index; put some into the data set's test folders" in capsys.readouterr().err
