"""A photograph of 12 megapixels with a defect of 30 x 30 pixels: found in tiles, and missed where it is made small.

Through `fit`, `predict` and `evaluate` as typed, and in Python; on the real features of the preset `fast`.
"""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from detector_runs import no_speed_test
from PIL import Image

import omniad
from omniad.cli import main
from omniad.miniature.photographs import area
from omniad.runs.artifacts import example_files, read_examples

pytestmark = pytest.mark.slow

WIDTH, HEIGHT, ENLARGED = 4000, 3000, 4
DEFECT = np.s_[1700:1730, 2300:2330]


def photograph(seed: int) -> np.ndarray:
    """Gravel, continued by reflection and enlarged; where it begins is drawn."""
    top, left = np.random.default_rng(seed).integers(0, 200, 2)
    height, width = HEIGHT // ENLARGED, WIDTH // ENLARGED
    gravel = np.pad(area("gravel", "train"), ((0, height + 200), (0, width + 200), (0, 0)), "reflect")
    piece = Image.fromarray(gravel[top : top + height, left : left + width])
    return np.array(piece.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=1)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Good photographs, a test set of one more and the same with a defect, a run on tiles and one without."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(3):
        save(folder / f"slabs/train/good/{number}.png", photograph(number))
    spoiled, mask = photograph(6), np.zeros((HEIGHT, WIDTH), np.uint8)
    save(folder / "slabs/test/good/0.png", spoiled)
    spoiled[DEFECT], mask[DEFECT] = (150, 90, 70), 255
    save(folder / "slabs/test/speck/1.png", spoiled)
    save(folder / "slabs/ground_truth/speck/1_mask.png", mask)
    (folder / "small.yaml").write_text("model: { memory: 500, candidates: 20000 }")
    typed = ["fit", str(folder / "slabs"), "--config", str(folder / "small.yaml"), "--out"]
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        assert main([*typed, str(folder / "whole")]) == 0
        assert main([*typed, str(folder / "tiled"), "--tile", "256", "--overlap", "32", "--scale", "0.25"]) == 0
    return folder


def predicted(folder: Path, run: str) -> dict[str, dict[str, str]]:
    assert main(["predict", str(folder / run), str(folder / "slabs/test"), "--out", str(folder / f"{run}-out")]) == 0
    return {row["name"]: row for row in table(folder / f"{run}-out/scores.csv")}


def test_tiles_find_it_and_only_it(folder):
    rows = predicted(folder, "tiled")
    assert {name: row["verdict"] for name, row in rows.items()} == {"good_0": "good", "speck_1": "anomalous"}
    anomaly_map = np.load(folder / "tiled-out/maps/speck_1.npy")
    assert anomaly_map.shape == (750, 1000)
    top, left = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert abs(4 * top - 1715) < 60 and abs(4 * left - 2315) < 60
    with Image.open(folder / "tiled-out/overlays/speck_1.png") as drawn:
        assert drawn.size == (1024, 768)


def test_without_tiles_it_is_missed(folder):
    assert {row["verdict"] for row in predicted(folder, "whole").values()} == {"good"}


def test_python_finds_it(folder):
    detector = omniad.Detector(folder / "tiled", "cpu")
    (found,) = detector.score(folder / "slabs/test/speck/1.png")
    assert (found.verdict, found.size) == ("anomalous", (HEIGHT, WIDTH))
    full = found.full_size_map()
    assert full.shape == (HEIGHT, WIDTH)
    assert full[DEFECT].mean() > 2 * np.quantile(full, 0.999)


def test_evaluate_measures_at_both_sizes(folder, caplog):
    caplog.set_level(logging.INFO)
    assert main(["evaluate", str(folder / "tiled")]) == 0
    full, small = (
        {row["metric"]: float(row["value"]) for row in table(folder / "tiled" / name) if row["definition"] == "exact"}
        for name in ("metrics_full_size.csv", "metrics.csv")
    )
    assert full["I-AUROC"] == small["I-AUROC"] == 1
    assert full["P-AUROC"] > 0.999 and full["AU-PRO"] > 0.99
    assert full["P-AP"] != small["P-AP"]
    assert "at the images' own size (metrics_full_size.csv): I-AUROC 100.0" in caplog.text
    assert "at 256x256 pixels (metrics.csv): I-AUROC 100.0" in caplog.text
    assert [row["label"] for row in table(folder / "tiled/scores.csv")] == ["0", "1"]
    [file] = example_files(folder / "tiled")
    spoiled = next(one for one in read_examples(file) if one.label)
    assert spoiled.image.shape == (256, 256, 3)
    assert spoiled.mask.any() and spoiled.map[spoiled.mask].mean() > spoiled.map.mean()
    assert not list((folder / "tiled").glob(".full_size*"))
