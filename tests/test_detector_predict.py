"""`omniad predict` and `Detector`, against the evaluation of the same run, with files of every kind of trouble."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_runs import SIZE, make_run, write_image, write_images
from PIL import Image
from scipy.ndimage import gaussian_filter

from omniad.cli import main
from omniad.config import to_yaml
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.detector.detector import Detector
from omniad.detector.overlay import overlay
from omniad.detector.predict import predict
from omniad.detector.threshold import Threshold, write_threshold
from omniad.errors import UserError
from omniad.evaluation.evaluate import evaluate
from omniad.models import load_model
from omniad.runs.provenance import load_run_settings

CPU = "cpu"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_scores_are_those_of_the_evaluation(run, tmp_path):
    """Same run, same images: `predict` from the files, `evaluate` from index and pack."""
    own = shutil.copytree(run, tmp_path / "run")
    write_images(tmp_path / "parts/train/good", 2)
    for number in range(6):
        write_image(tmp_path / f"parts/test/good/{number}.png", seed=10 + number, size=(90, 70))
    settings = load_run_settings(own)
    source = settings.source.model_copy(update={"folder": str(tmp_path / "parts")})
    data = settings.data.model_copy(update={"prepared": str(tmp_path / "prepared")})
    settings = settings.model_copy(update={"source": source, "data": data})
    (own / "config.yaml").write_text(to_yaml(settings))
    index = settings.pack_folder.parent / "index.csv"
    write_index(source, index)
    write_pack(source, index, settings.pack_folder, SIZE)
    evaluate(own, torch.device(CPU), keep_maps=True)
    predict(Detector(own, CPU), [tmp_path / "parts/test"], tmp_path / "out")
    evaluated = read_csv(own / "scores.csv")
    predicted = read_csv(tmp_path / "out/scores.csv")
    assert [Path(row["path"]).name for row in predicted] == [Path(row["image"]).name for row in evaluated]
    np.testing.assert_allclose(
        [float(row["score"]) for row in predicted], [float(row["score"]) for row in evaluated], rtol=1e-5
    )
    maps = np.stack([np.load(tmp_path / f"out/maps/{row['name']}.npy") for row in predicted])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, np.load(own / "maps/parts.npy"), rtol=1e-4, atol=1e-6)


def test_a_map_is_made_as_written_down(run, tmp_path):
    """Slow and literal: normalise, features, cosine distances, Gaussian of scipy, maximum."""
    pixels = write_image(tmp_path / "a.png")
    (found,) = Detector(run, CPU).score(tmp_path / "a.png")
    image = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    model = load_model(run)
    with torch.no_grad():
        features, outputs = model(torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None])
    total = np.zeros((SIZE, SIZE))
    for a, b in zip(features, outputs, strict=True):
        distance = 1 - (a * b).sum(1, keepdim=True) / (a.norm(dim=1) * b.norm(dim=1))
        total += torch.nn.functional.interpolate(distance, (SIZE, SIZE), mode="bilinear", align_corners=True)[
            0, 0
        ].numpy()
    expected = gaussian_filter(total / 9, 1.5)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert found.score == pytest.approx(expected.max(), abs=1e-5)


def test_any_mix_of_images_end_to_end(run, tmp_path, monkeypatch, capsys):
    """The command as typed: files and folders, all sizes and modes, same names; what is not broken is done."""
    monkeypatch.chdir(tmp_path)
    pixels = write_image(Path("in/a/000.png"), 1, (50, 80))
    write_image(Path("in/b/000.png"), 2, (64, 64))
    Image.fromarray(pixels).convert("L").save("in/b/grey.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save("in/b/deep.png")
    Image.fromarray(pixels).convert("RGBA").save("in/b/alpha.png")
    Image.fromarray(pixels).quantize(8).save("in/b/palette.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(pixels).save("in/b/turned.png", exif=exif)
    Path("in/b/empty.png").touch()
    Path("in/b/text.png").write_text("not an image")
    Path("in/b/cut.png").write_bytes(Path("in/a/000.png").read_bytes()[:200])
    shutil.copy("in/a/000.png", "alone.dat")
    assert main(["predict", str(run), "in", "alone.dat", "--out", "out", "--full-size", "--cpu"]) == 1
    error = capsys.readouterr().err
    assert error.count("omniad: 3 of 11 images could not be read and were skipped") == 1
    skipped = read_csv(Path("out/skipped.csv"))
    assert {row["path"] for row in skipped} == {"in/b/cut.png", "in/b/empty.png", "in/b/text.png"}
    assert all(row["path"] in error and row["reason"] for row in skipped)
    rows = {row["path"]: row for row in read_csv(Path("out/scores.csv"))}
    assert len(rows) == 8
    assert {row["verdict"] for row in rows.values()} == {""}  # this run has no threshold
    assert len({row["name"] for row in rows.values()}) == 8
    sizes = {"in/b/000.png": (64, 64), "in/b/turned.png": (80, 50)}
    for path, row in rows.items():
        anomaly_map = np.load(f"out/maps/{row['name']}.npy", allow_pickle=False)
        assert (anomaly_map.shape, anomaly_map.dtype) == ((SIZE, SIZE), np.float32)
        assert float(row["score"]) == pytest.approx(anomaly_map.max())
        full = np.load(f"out/full_size_maps/{row['name']}.npy", allow_pickle=False)
        assert (full.shape, full.dtype) == (sizes.get(path, (50, 80)), np.float32)
        with Image.open(f"out/overlays/{row['name']}.png") as drawn:
            assert drawn.size == full.shape[::-1]
    same = ["in/a/000.png", "alone.dat", "in/b/alpha.png"]  # the same pixels in other files
    assert len({rows[path]["score"] for path in same}) == 1
    # What was written is no input of a second call, and a clean call leaves no list of skipped images.
    for broken in skipped:
        Path(broken["path"]).unlink()
    assert main(["predict", str(run), ".", "--out", "out", "--cpu"]) == 0
    assert {str(Path(row["path"])) for row in read_csv(Path("out/scores.csv"))} == set(rows) - {"alone.dat"}
    assert not Path("out/skipped.csv").exists()


def test_a_full_size_map_is_the_bilinear_enlargement(run, tmp_path):
    """As PIL enlarges, which has its pixels' centres at the same places."""
    write_image(tmp_path / "a.png", size=(150, 110))
    (found,) = Detector(run, CPU).score([tmp_path / "a.png"])
    expected = Image.fromarray(found.map).resize((110, 150), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found.full_size_map(), np.asarray(expected), atol=1e-6)


def test_one_image_as_json(run, tmp_path, capsys):
    file = write_images(tmp_path, 1) / "000.png"
    assert main(["predict", str(run), str(file), "--json", "--threshold", "0.01", "--cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"path", "score", "verdict", "threshold"}
    assert (answer["path"], answer["threshold"], answer["verdict"]) == (str(file), 0.01, "anomalous")
    assert main(["predict", str(run), str(file), "--json", "--cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] is None
    assert main(["predict", str(run), str(file)]) == 1
    assert "give --out DIR for the results, or --json" in capsys.readouterr().err


def test_the_verdict_is_above_the_runs_threshold(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    images = write_images(tmp_path / "images", 5)
    scores = sorted(found.score for found in Detector(own, CPU).score(images))
    write_threshold(own, Threshold(scores[2], 0.99, 3, 0.0, {}))
    verdicts = {found.score: found.verdict for found in Detector(own, CPU).score(images)}
    assert [verdicts[score] for score in scores] == ["good"] * 3 + ["anomalous"] * 2
    strict = Detector(own, CPU, threshold=scores[0])
    assert sum(found.verdict == "anomalous" for found in strict.score(images)) == 4
    (own / "threshold.json").write_text('{"threshold": "high"}')
    with pytest.raises(UserError, match="not a threshold from `omniad fit`"):
        Detector(own, CPU)


def test_random_projections_are_the_same_for_every_image_and_call(tmp_path):
    """The `released` reading draws in every call: an image's score must not depend on what is scored beside it."""
    run = make_run(tmp_path / "run", variant="released")
    detector = Detector(run, CPU)
    assert detector.model.draws
    images = write_images(tmp_path / "images", 6)  # two batches
    together = {found.path: found.score for found in detector.score(images)}
    for path, score in together.items():
        (alone,) = detector.score(path)
        assert alone.score == pytest.approx(score, rel=1e-4)


def test_an_unreadable_image_is_raised_where_nobody_takes_it(run, tmp_path):
    write_images(tmp_path, 2)
    (tmp_path / "001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"001\.png: can't be read"):
        list(Detector(run, CPU).score(tmp_path))
    skipped: dict[Path, str] = {}
    assert [one.path.name for one in Detector(run, CPU).score(tmp_path, skipped)] == ["000.png"]
    assert list(skipped) == [tmp_path / "001.png"]


def test_scores_that_are_not_finite_are_no_verdict(run, tmp_path):
    detector = Detector(run, CPU, threshold=1.0)
    with torch.no_grad():
        next(detector.model.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="scores that are not finite"):
        list(detector.score(write_images(tmp_path, 1)))


def test_an_overlay_colours_from_what_is_usual_and_outlines_what_is_above_the_threshold(run, tmp_path):
    pixels = write_image(tmp_path / "a.png")
    detector = Detector(run, CPU, threshold=0.5)
    detector.typical = 0.1
    (found,) = detector.score(tmp_path / "a.png")
    heat = np.full((SIZE, SIZE), 0.1, np.float32)
    heat[16:48, 16:48] = 0.8
    drawn = np.asarray(overlay(detector, type(found)(found.path, 0.8, "anomalous", heat, found.size, found.view)))
    grey = np.rint(pixels.mean(axis=2))
    np.testing.assert_array_equal(drawn[:16], np.repeat(grey[:16, :, None], 3, axis=2))  # usual: the image as it is
    assert (drawn[16:18, 16:48] == 255).all() and (drawn[16:48, 46:48] == 255).all()  # the outline, white
    inside = drawn[20:44, 20:44].astype(int)
    assert (inside[..., 0] > inside[..., 2] + 30).all()  # the upper half of the colours is orange


def test_a_large_image_is_looked_at_in_a_smaller_view(run, tmp_path):
    write_image(tmp_path / "a.png", size=(600, 3000))
    (found,) = Detector(run, CPU).score(tmp_path / "a.png")
    assert (found.size, found.view.shape) == ((600, 3000), (205, 1024, 3))
    assert found.full_size_map().shape == (600, 3000)


def test_a_run_folder_that_is_none_is_told(tmp_path, capsys):
    write_images(tmp_path / "images", 1)
    assert main(["predict", str(tmp_path / "absent"), str(tmp_path / "images"), "--json"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"omniad: {tmp_path}/absent: not a run folder") and told.count("\n") == 1
