"""`omniad fit`: from a folder of good images to a run folder whose threshold is what it says."""

import csv
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detector_runs import TINY, make_run, no_speed_test, write_image, write_images
from PIL import Image
from safetensors.torch import load_file

from omniad.cli import main
from omniad.data import weights
from omniad.data.index import read_index
from omniad.detector.detector import Detector
from omniad.detector.fit import default_epochs, fit
from omniad.detector.threshold import make_threshold, read_threshold
from omniad.errors import UserError
from omniad.models.encoder import Encoder
from omniad.runs.provenance import load_run_settings


@pytest.fixture
def overlay(tmp_path) -> str:
    """The tiny model, for --config."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY.model_dump(include={"data": {"image_size"}, "model": True, "training": True})))
    return str(file)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A run on two products; "nut" came with defects."""
    folder = tmp_path_factory.mktemp("own")
    write_images(folder / "parts/bolt", 10)
    write_images(folder / "parts/nut/good", 5)
    write_image(folder / "parts/nut/scratch/000.png", seed=50)
    fit(folder / "parts", folder / "run", epochs=3, quantile=0.5, settings=TINY)
    return folder


def test_the_run_folder_is_as_everywhere_else(fitted):
    run = fitted / "run"
    names = {"config.yaml", "model.safetensors", "history.csv", "provenance.json", "threshold.json", "prepared"}
    assert names <= {path.name for path in run.iterdir()}
    with (run / "history.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 3
    settings = load_run_settings(run)
    assert (settings.dataset, settings.run, settings.training.epochs) == ("parts", "fit", 3)
    index = read_index(run / "prepared/parts/index.csv")
    assert index.groupby(["class", "split"]).size().to_dict() == {
        ("bolt", "train"): 8,
        ("bolt", "validation"): 2,
        ("nut", "train"): 4,
        ("nut", "validation"): 1,
        ("nut", "test"): 1,
    }


def test_the_threshold_is_the_quantile_of_what_predict_gives_the_held_out_images(fitted):
    run = fitted / "run"
    index = read_index(run / "prepared/parts/index.csv")
    held_out = index.loc[index["split"] == "validation"]
    files = [fitted / "parts" / image for image in held_out["image"]]
    scores = [found.score for found in Detector(run, "cpu").score(files)]
    kept = read_threshold(run)
    assert kept is not None
    assert kept.threshold == pytest.approx(sorted(scores)[1], rel=1e-5)  # of three the second: half do not exceed it
    assert (kept.quantile, kept.images, list(kept.products)) == (0.5, 3, ["bolt", "nut"])
    assert kept.products["nut"] == pytest.approx(scores[list(held_out["class"]).index("nut")], rel=1e-5)


@pytest.mark.parametrize(("quantile", "expected"), [(1.0, 9.0), (0.99, 9.0), (0.9, 8.0), (0.8, 7.0), (0.01, 0.0)])
def test_a_quantile_of_ten_scores_by_hand(quantile, expected):
    scores = np.random.default_rng(0).permutation(10).astype(np.float64)
    found = make_threshold(scores, np.arange(10.0), ["a"] * 10, quantile)
    assert (found.threshold, found.typical) == (expected, 4.5)
    assert np.mean(scores <= found.threshold) >= quantile


def test_held_out_and_test_images_are_not_trained_on(fitted, tmp_path):
    """Other pixels there change nothing of the model."""
    parts = shutil.copytree(fitted / "parts", tmp_path / "parts")
    index = read_index(fitted / "run/prepared/parts/index.csv")
    for image in index["image"][index["split"] != "train"]:
        write_image(parts / image, seed=99)
    fit(parts, tmp_path / "run", epochs=3, settings=TINY)
    before, after = (load_file(run / "model.safetensors") for run in (fitted / "run", tmp_path / "run"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_threshold(tmp_path / "run") != read_threshold(fitted / "run")


def test_the_same_command_again_ends_with_the_same_result_and_estimates_no_time(fitted, monkeypatch):
    monkeypatch.setattr("omniad.detector.announce.cpu_hours", None)  # a call would fail
    run = fitted / "run"
    files = ("model.safetensors", "threshold.json", "history.csv")
    before = [(run / name).read_bytes() for name in files[:2]]
    (run / "threshold.json").unlink()  # as if it had been killed before the end
    fit(fitted / "parts", run, epochs=3, quantile=0.5, settings=TINY)
    assert [(run / name).read_bytes() for name in files[:2]] == before


def test_images_that_were_added_are_packed_anew(tmp_path):
    folder = write_images(tmp_path / "bolts", 4)
    fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    write_images(folder, 8)
    fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    kept = read_threshold(tmp_path / "run")
    assert kept is not None and kept.images == 2
    assert len(np.load(tmp_path / "run/prepared/bolts/64/images.npy", mmap_mode="r")) == 8


def test_images_replaced_under_the_same_names_train_a_new_detector(tmp_path, caplog):
    folder = write_images(tmp_path / "bolts", 4)
    fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    before = (tmp_path / "run/model.safetensors").read_bytes()
    for number in range(4):
        write_image(folder / f"{number:03}.png", seed=90 + number)
    with caplog.at_level("INFO"):
        fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    assert "data.sha256 was" in caplog.text
    assert (tmp_path / "run/model.safetensors").read_bytes() != before


def test_a_run_folder_is_the_same_however_it_is_named_and_wherever_it_is_moved(fitted, tmp_path, monkeypatch):
    own = shutil.copytree(fitted / "run", tmp_path / "moved")
    assert load_run_settings(own).pack_folder == own / "prepared/parts/64"
    monkeypatch.chdir(fitted)
    before = Path("run/model.safetensors").read_bytes()
    fit("parts", "run", epochs=3, quantile=0.5, settings=TINY)  # fitted with absolute paths
    assert Path("run/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("epochs", [10**12])
def test_epochs_beyond_reason_are_refused(tmp_path, epochs):
    folder = write_images(tmp_path / "bolts", 4)
    with pytest.raises(UserError, match=r"fit: 'training\.epochs' must be at most 1,000,000"):
        fit(folder, tmp_path / "run", epochs=epochs, settings=TINY)


def test_fit_predict_and_evaluate_as_typed(fitted, overlay, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fitted / "parts", "parts")
    write_image(Path("parts/nut/test/good/000.png"), seed=7)  # makes it MVTec-AD's layout
    Path("parts/nut/train").mkdir()
    Path("parts/nut/good").rename("parts/nut/train/good")
    Path("parts/nut/scratch").rename("parts/nut/test/scratch")
    Path("parts/nut/ground_truth/scratch").mkdir(parents=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 20:30] = 255
    Image.fromarray(mask).save("parts/nut/ground_truth/scratch/000_mask.png")
    assert main(["fit", "parts", "--out", "run", "--epochs", "1", "--config", overlay]) == 0
    assert main(["predict", "run", "parts", "--out", "out"]) == 0
    with Path("out/scores.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 10 + 5 + 1 + 1
    assert {row["verdict"] for row in rows} <= {"good", "anomalous"}
    assert main(["evaluate", "run"]) == 0
    assert Path("run/metrics.csv").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such folder"),
        (["bolts", "--quantile", "1.5"], "the threshold's quantile must be above 0 and at most 1, not 1.5"),
        (["bolts", "--weights", "absent.pth"], "no file absent.pth"),
        (["empty"], "empty: no images in it"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_made(
    tmp_path, monkeypatch, capsys, overlay, arguments, message
):
    monkeypatch.chdir(tmp_path)
    write_images(Path("bolts"), 4)
    Path("empty").mkdir()
    Path("empty/note.txt").touch()
    assert main(["fit", *arguments, "--out", "run", "--config", overlay]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("run/model.safetensors").exists()


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run: is a file; name a folder for the run with --out"):
        fit(write_images(tmp_path / "bolts", 4), tmp_path / "run", epochs=1, settings=TINY)


def test_epochs_of_a_method_that_does_not_train_are_said_to_have_no_effect(tmp_path, caplog):
    memory = TINY.model_copy(update={"model": TINY.model.model_copy(update={"method": "patch-memory"})})
    with caplog.at_level("INFO"):
        fit(write_images(tmp_path / "bolts", 4), tmp_path / "run", epochs=3, settings=memory)
    assert "patch-memory does not train: --epochs has no effect" in caplog.text


def test_broken_images_are_all_named(tmp_path):
    folder = write_images(tmp_path / "bolts", 6)
    (folder / "001.png").write_bytes(b"")
    (folder / "002.png").write_text("text")
    with pytest.raises(UserError) as told:
        fit(folder, tmp_path / "run", epochs=1, settings=TINY)
    assert "Remove or replace these files" in str(told.value)
    assert "Empty (1): 001.png" in str(told.value) and "Not readable as an image (1): 002.png" in str(told.value)


def test_another_run_is_not_overwritten(tmp_path):
    run = make_run(tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="already holds the run 'untrained' on parts; choose a new folder"):
        fit(write_images(tmp_path / "bolts", 4), run, epochs=1, settings=TINY)
    assert (run / "model.safetensors").read_bytes() == before


def test_a_file_of_weights_is_used(tmp_path):
    encoder = Encoder("resnet18", 8)
    torch.save(encoder.state_dict(), tmp_path / "own.pth")
    fit(write_images(tmp_path / "bolts", 4), tmp_path / "run", epochs=1, weights=tmp_path / "own.pth", settings=TINY)
    trained = load_file(tmp_path / "run/model.safetensors")
    assert torch.equal(trained["encoder.conv1.weight"], encoder.conv1.weight)
    note = json.loads((tmp_path / "run/provenance.json").read_text())["weights"]
    assert note["file"] == "own.pth"


def test_weights_of_another_model_are_told_before_anything_is_made(tmp_path):
    torch.save(Encoder("resnet18", 16).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match="not the weights of this model") as told:
        fit(write_images(tmp_path / "bolts", 4), tmp_path / "run", weights=tmp_path / "wide.pth", settings=TINY)
    assert "wide.pth" in str(told.value) and len(str(told.value)) < 600
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_told_before_missing_weights(tmp_path):
    (tmp_path / "empty").mkdir()
    absent = TINY.model_copy(update={"model": TINY.model.model_copy(update={"encoder_weights": "imagenet"})})
    with pytest.raises(UserError, match=r"empty: no images in it"):
        fit(tmp_path / "empty", tmp_path / "run", settings=absent)
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=r"file\.txt: is a file; name the folder"):
        fit(tmp_path / "file.txt", tmp_path / "run", settings=absent)


def test_weights_that_cannot_be_fetched_are_told_with_address_and_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nobody = "http://127.0.0.1:9/resnet18-f37072fd.pth"  # the discard port: nothing listens there
    monkeypatch.setitem(weights.KNOWN_WEIGHTS["imagenet"], "resnet18", nobody)
    published = TINY.model_copy(update={"model": TINY.model.model_copy(update={"encoder_weights": "imagenet"})})
    with pytest.raises(UserError) as told:
        fit(write_images(tmp_path / "bolts", 4), tmp_path / "run", settings=published)
    assert f"get them from {nobody} and put the file at data/weights/resnet18-f37072fd.pth" in str(told.value)
    assert "--weights" in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_epochs_by_default_make_about_five_thousand_steps_within_the_papers():
    assert default_epochs(5000, 226) == 22  # MVTec-AD's 3,629 images
    assert default_epochs(5000, 5) == 500  # 80 images: as many as the paper trains
    assert default_epochs(5000, 10_000) == 10


def test_images_and_weights_are_read_once(tmp_path, monkeypatch):
    """One index, one pack opened, one hash of the weights, one detector loaded; the threshold is the returned one's."""
    torch.manual_seed(0)
    torch.save(Encoder("resnet18", 8).state_dict(), tmp_path / "encoder.pth")
    write_images(tmp_path / "bolts", 6)
    calls: list[str] = []

    def counted(place: str, name: str) -> None:
        module = importlib.import_module(place)
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **named: (calls.append(name), original(*given, **named))[1])

    counted("omniad.data.packs", "read_index")
    counted("omniad.data.pack_writer", "read_index")
    counted("omniad.detector.detector", "load_model")
    counted("omniad.data.weights", "sha256_file")
    counted("omniad.training.train", "open_pack")
    detector = fit(tmp_path / "bolts", tmp_path / "run", epochs=1, weights=tmp_path / "encoder.pth", settings=TINY)
    assert sorted(calls) == ["load_model", "sha256_file"]
    kept = read_threshold(tmp_path / "run")
    assert kept is not None and (detector.threshold, detector.typical) == (kept.threshold, kept.typical)
