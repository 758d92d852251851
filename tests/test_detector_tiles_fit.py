"""`omniad fit --tile`: what its pack holds, what its threshold rests on, what it refuses, when it advises tiles."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detector_runs import PATCHES, SIZE, TINY, no_speed_test, write_image, write_images

from omniad.cli import main
from omniad.config import TileSettings
from omniad.data.growing_pack import GrowingPack
from omniad.detector.detector import Detector
from omniad.detector.fit import fit
from omniad.models.coreset import Memory
from omniad.runs.provenance import load_run_settings


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        yield


def test_each_training_image_is_left_out_whole(tmp_path):
    """The threshold's scores: as by a memory without any patch of the image, whichever tile it was of."""
    folder = tmp_path / "slabs"
    for number in range(4):
        write_image(folder / f"{number}.png", number, (100, 90))
    detector = fit(folder, tmp_path / "run", quantile=1.0, settings=PATCHES, tile=SIZE, overlap=8)
    memories = [module for module in detector.model.modules() if isinstance(module, Memory)]
    assert all(set(memory.images.tolist()) == {0, 1, 2, 3} for memory in memories)
    scores = []
    for number in range(4):
        alone = Detector(tmp_path / "run", "cpu")
        for memory in (module for module in alone.model.modules() if isinstance(module, Memory)):
            memory.entries = memory.entries[memory.images != number]
            memory.images = memory.images[memory.images != number]
        scores += [found.score for found in alone.score(folder / f"{number}.png")]
    kept = json.loads((tmp_path / "run/threshold.json").read_text())
    assert kept["images"] == 4
    assert kept["threshold"] == pytest.approx(max(scores), rel=1e-4)


def test_the_pack_holds_the_training_images_tiles(tmp_path, monkeypatch):
    """Each as it is cut; what a kill interrupted is taken up again, and other tiles are another pack."""
    folder = tmp_path / "slabs"
    pixels = [write_image(folder / f"{number}.png", number, (100, 130)) for number in range(5)]
    vouch = GrowingPack.vouch

    def killed(growing: GrowingPack, digest: str) -> None:
        if growing.rows >= 16:
            raise KeyboardInterrupt
        vouch(growing, digest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GrowingPack, "vouch", killed)
        fit(folder, tmp_path / "run", settings=PATCHES, tile=SIZE, overlap=16)
    fit(folder, tmp_path / "run", settings=PATCHES, tile=SIZE, overlap=16)
    [file] = tmp_path.glob("run/prepared/slabs/*/images.npy")
    tiles = np.load(file)
    assert tiles.shape == (5 * 6, SIZE, SIZE, 3)
    padded = np.pad(pixels[3], ((0, 12), (0, 30), (0, 0)), "reflect")
    places = [(top, left) for top in (0, 48) for left in (0, 48, 96)]
    for tile, (top, left) in zip(tiles[18:24], places, strict=True):
        np.testing.assert_array_equal(tile, padded[top : top + SIZE, left : left + SIZE])
    before = (tmp_path / "run/model.safetensors").read_bytes()
    fit(folder, tmp_path / "run", settings=PATCHES, tile=SIZE, overlap=32)
    assert (tmp_path / "run/model.safetensors").read_bytes() != before
    assert load_run_settings(tmp_path / "run").tiles == TileSettings(overlap=32)


def test_a_method_that_trains_holds_whole_images_out(tmp_path):
    for number in range(5):
        write_image(tmp_path / f"slabs/{number}.png", number, (100, 90))
    detector = fit(tmp_path / "slabs", tmp_path / "run", epochs=1, settings=TINY, tile=SIZE, overlap=8)
    [file] = tmp_path.glob("run/prepared/slabs/*/images.npy")
    assert len(np.load(file)) == 4 * 4
    (held_out,) = detector.score(tmp_path / "slabs/2.png")  # the middle one
    assert detector.threshold == pytest.approx(held_out.score)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tile", "64", "--overlap", "64"],
            "the tiles' overlap must be at least 0 and less than their side of 64",
        ),
        (["--tile", "64", "--overlap", "-1"], "'tiles.overlap' should be greater than or equal to 0, not -1"),
        (["--tile", "64", "--scale", "0"], "'tiles.scale' should be greater than 0, not 0.0"),
        (["--tile", "64", "--scale", "nan"], "'tiles.scale' should be a finite number, not nan"),
        (["--tile", "64", "--scale", "inf"], "'tiles.scale' should be a finite number, not inf"),
        (["--tile", "100"], "'data.image_size' should be a multiple of 32, not 100"),
        (
            ["--tile", "128"],
            "2 images can't be cut into tiles: 0.png, 1.png (90x100 pixels, smaller than a tile of 128; use",
        ),
        (
            ["--tile", "64", "--scale", "0.5"],
            "0.png, 1.png (45x50 pixels at scale 0.5, smaller than a tile of 64;",
        ),
        (["--overlap", "16"], "--overlap and --scale need tiles: also give the tiles' side (--tile 256)"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_image(Path(f"slabs/{number}.png"), number, (100, 90))
    Path("tiny.yaml").write_text("model: { encoder: resnet18, encoder_width: 8, encoder_weights: random }")
    assert main(["fit", "slabs", "--out", "run", "--config", "tiny.yaml", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") - error.count("index.csv\n") == 1
    assert not Path("run/model.safetensors").exists()


def test_fit_says_when_tiles_are_advisable(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in range(2):
        write_image(tmp_path / f"large/{number}.png", number, (200, 300))
    fit(tmp_path / "large", tmp_path / "one", settings=PATCHES)
    advice = (
        "Images of 300x200 pixels are shrunk to 64x64, where small defects can vanish: `--tile 64` cuts each into 54 "
        "tiles instead, but then predict takes 54 times as long and fit about 36 s on this CPU."
    )
    assert advice in caplog.text
    caplog.clear()
    write_images(tmp_path / "small", 2)
    fit(tmp_path / "small", tmp_path / "two", settings=PATCHES)
    assert "--tile" not in caplog.text
