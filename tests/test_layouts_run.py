"""MVTec AD 2 and MVTec LOCO AD, in miniature and as typed: from the folder to metrics, and through `omniad fit`."""

import csv
from pathlib import Path

import pandas as pd
import pytest
import yaml
from detector_runs import TINY, no_speed_test

from omniad.cli import main
from omniad.data.index import read_index
from omniad.detector.detector import Detector
from omniad.detector.fit import fit
from omniad.detector.predict import predict
from omniad.detector.threshold import images_for_threshold, read_threshold
from omniad.miniature import write_miniature, writers
from omniad.runs.files import METRICS, SCORES

LAYOUTS = ("mvtec_ad_2", "mvtec_loco")
CLASSES = {"mvtec_ad_2": {"pebbles", "weave"}, "mvtec_loco": {"coins", "tablets"}}
MEMORY = {"method": "patch-memory", "memory": 50, "candidates": 200, "standardise": True}  # what `--preset fast` makes


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("miniatures")
    few = {"train": 5, "validation": 2, "good": 2, "defective": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "AD_2_COUNTS", few | {"private": 2})
        patch.setattr(writers, "LOCO_COUNTS", few)
        for layout in LAYOUTS:
            write_miniature(layout, folder / layout)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_the_folder_to_metrics_as_typed(layout, miniatures, tmp_path, caplog):
    folder, prepared = miniatures / layout, tmp_path / "prepared"
    source = {"title": "Mini", "layout": layout, "folder": str(folder), "miniature": True}
    overlay = {"datasets": ["mini"], "sources": {"mini": source}, **TINY.model_dump(include={"model", "evaluation"})}
    overlay |= {"data": {"prepared": str(prepared), "image_size": 64}, "training": {"epochs": 1, "batch_size": 4}}
    config = tmp_path / "mini.yaml"
    config.write_text(yaml.safe_dump(overlay))
    data, index_csv, pack = ["--config", str(config), "--dataset", "mini"], prepared / "mini/index.csv", "mini/64"
    assert main(["index", *data, "--out", str(index_csv)]) == 0
    assert main(["pack", *data, "--index", str(index_csv), "--out", str(prepared / pack)]) == 0
    run = tmp_path / "run"
    assert main(["train", *data, "--run", "default", "--seed", "0", "--out", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    index = read_index(index_csv)
    with (run / METRICS).open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["class"] for row in rows} == CLASSES[layout] | {"mean"}
    assert all(0 <= float(row["value"]) <= 1 for row in rows)
    with (run / SCORES).open() as lines:
        scored = sorted(row["image"] for row in csv.DictReader(lines))
    assert scored == sorted(index.loc[index["split"] == "test", "image"])  # no validation image, none without a label


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [{}, MEMORY], ids=["omni-ad", "patch-memory"])
def test_fit_finds_the_layout_and_its_validation_images_set_the_threshold(
    layout, model, miniatures, tmp_path, caplog, monkeypatch
):
    no_speed_test(monkeypatch)
    folder, run = miniatures / layout, tmp_path / "run"
    settings = TINY.model_copy(update={"model": TINY.model.model_copy(update=model)})
    with caplog.at_level("INFO"):
        fit(folder, run, epochs=None if model else 1, quantile=1.0, settings=settings)
    assert "10 good images of 2 products, 4 validation images for the threshold" in caplog.text
    assert f"`omniad evaluate {run}` measures the detector" in caplog.text
    index = read_index(run / f"prepared/{layout}/index.csv")
    assert index["split"].tolist().count("train") == 10  # nothing is held out
    files = sorted(folder.glob("*/validation/good/*.png"))
    scores = [prediction.score for prediction in Detector(run, "cpu").score(files)]
    threshold = read_threshold(run)
    assert threshold is not None
    assert threshold.images == len(files) == 4
    assert threshold.threshold == pytest.approx(max(scores), rel=1e-5)
    assert set(threshold.products) == CLASSES[layout]
    assert main(["evaluate", str(run)]) == 0


def test_images_without_labels_are_predicted(miniatures, tmp_path, monkeypatch):
    no_speed_test(monkeypatch)
    folder = miniatures / "mvtec_ad_2/weave"
    fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    private = [folder / "test_private", folder / "test_private_mixed"]
    rows = predict(tmp_path / "run", private, tmp_path / "out")
    assert [row.name for row in rows] == [
        *("test_private_000_regular", "test_private_001_regular"),
        *("test_private_mixed_000_mixed", "test_private_mixed_001_mixed"),
    ]
    assert {row.verdict for row in rows} <= {"good", "anomalous"}


def test_which_images_a_threshold_is_made_of():
    """Two classes, one with validation images."""
    splits = ["train", "train", "validation", "test", "train", "train", "train"]
    index = pd.DataFrame({"class": [*"aaaabbb"], "split": splits})

    def chosen(leaves_out: bool) -> list[list[object]]:
        return images_for_threshold(index, leaves_out).to_numpy().tolist()

    assert chosen(leaves_out=False) == [["a", 2, -1]]
    assert chosen(leaves_out=True) == [["a", 2, -1], ["b", 4, 2], ["b", 5, 3], ["b", 6, 4]]
