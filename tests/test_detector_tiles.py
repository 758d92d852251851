"""Tiles: where they lie, what is in them, how their maps become one, and which score that gives."""

import gc
import weakref

import numpy as np
import pytest
import torch
from detector_runs import SIZE, make_run, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omniad.config import TileSettings
from omniad.detector.detector import Detector
from omniad.detector.predict import predict
from omniad.detector.tiles import Grid
from omniad.errors import UserError
from omniad.evaluation.evaluate import evaluate

TILES = TileSettings(overlap=16)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Detector:
    return Detector(make_run(tmp_path_factory.mktemp("runs") / "run", TILES), "cpu")


def mirrored(position: int, length: int) -> int:
    """A position that walks back from the last one when it passes it."""
    return position if position < length else 2 * (length - 1) - position


def slow_blend(image: np.ndarray, side: int, overlap: int, map_of) -> np.ndarray:
    """Pixel by pixel: the mean of all tiles' maps there, each weighted by how far the pixel is from its tile's edge."""
    height, width = image.shape[:2]
    totals, weights = np.zeros((height, width)), np.zeros((height, width))
    top = 0
    while True:
        left = 0
        while True:
            rows = [mirrored(top + k, height) for k in range(side)]
            columns = [mirrored(left + k, width) for k in range(side)]
            tile = np.array([[image[row, column] for column in columns] for row in rows])
            tile_map = map_of(tile[None])[0]
            for i in range(min(side, height - top)):
                for j in range(min(side, width - left)):
                    inside = [min(k + 1, side - k) / (overlap + 1) for k in (i, j)]
                    weight = min(inside[0], 1) * min(inside[1], 1)
                    totals[top + i, left + j] += weight * tile_map[i, j]
                    weights[top + i, left + j] += weight
            if left + side >= width:
                break
            left += side - overlap
        if top + side >= height:
            break
        top += side - overlap
    return totals / weights


SHAPES = [(8, 8, 0), (8, 21, 3), (19, 8, 7), (17, 22, 4), (24, 15, 5), (16, 16, 0)]


@pytest.mark.parametrize(("height", "width", "overlap"), SHAPES)
def test_blending_is_what_the_slow_loop_computes(height, width, overlap):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    def map_of(tiles: np.ndarray) -> np.ndarray:  # depends on the place in the tile, too
        return tiles.mean(axis=3) + 10 * np.sin(np.arange(8.0))[:, None] + np.arange(8.0)

    found = Grid((height, width), 8, overlap).blend(image, 3, map_of)
    assert (found.dtype, found.shape) == (np.float32, (height, width))
    np.testing.assert_allclose(found, slow_blend(image, 8, overlap, map_of), rtol=1e-5)


sides = st.integers(1, 40)


@given(sides, st.integers(0, 39), st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_a_constant_map_stays_constant_and_every_pixel_is_covered(side, overlap, more_rows, more_columns):
    height, width = side + more_rows, side + more_columns
    grid = Grid((height, width), side, overlap % side)
    image = np.arange(height * width, dtype=np.float64).reshape(height, width)
    constant = grid.blend(image, 7, lambda tiles: np.full(tiles.shape, 3.0, np.float32))
    np.testing.assert_allclose(constant, 3, rtol=1e-5)
    np.testing.assert_allclose(grid.blend(image, 7, lambda tiles: tiles), image, rtol=1e-5)


def test_a_smooth_map_has_no_seams():
    """Each tile adds an offset of its own, as a model does: the blend goes from one to the next where they overlap."""
    side, overlap = 32, 16
    rows, columns = np.mgrid[:90, :130]
    smooth = np.sin(rows / 20) + np.cos(columns / 15)
    offsets = iter(np.random.default_rng(0).uniform(-1, 1, 1000))

    def map_of(tiles: np.ndarray) -> np.ndarray:
        return tiles + np.array([next(offsets) for _ in tiles])[:, None, None]

    found = Grid(smooth.shape, side, overlap).blend(smooth, 5, map_of)
    steps = max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1))
    steepest = max(np.abs(np.diff(smooth, axis=axis)).max() for axis in (0, 1))
    assert steps < steepest + 2 * 2 / (overlap + 1)  # offsets differ by 2 at most; twice, where four tiles meet
    hard = Grid(smooth.shape, side, 0).blend(smooth, 5, map_of)
    assert max(np.abs(np.diff(hard, axis=axis)).max() for axis in (0, 1)) > 3 * steps


def test_only_a_batch_of_tiles_is_cut_at_once():
    batches = []
    image = np.zeros((100, 70), np.float32)
    grid = Grid((100, 70), 16, 4)
    grid.blend(image, 5, lambda tiles: (batches.append(len(tiles)), tiles)[1])
    assert sum(batches) == len(grid.places) == 8 * 6
    assert set(batches) == {5, 3}


def test_the_map_is_blended_from_what_the_detector_makes_of_each_tile(detector, tmp_path):
    pixels = write_image(tmp_path / "a.png", size=(100, 150))
    (found,) = detector.score(tmp_path / "a.png")
    assert (found.map.shape, found.map.dtype, found.size) == ((100, 150), np.float32, (100, 150))
    expected = slow_blend(pixels, SIZE, 16, lambda tiles: detector.compute(tiles.astype(np.uint8))[0])
    np.testing.assert_allclose(found.map, expected, atol=1e-6)
    assert found.score == pytest.approx(expected.max(), rel=1e-5)
    assert found.full_size_map() is found.map


def test_an_image_of_a_tiles_size_gets_the_map_it_gets_without_tiles(tmp_path):
    write_image(tmp_path / "a.png")
    run = make_run(tmp_path / "run")
    (whole,) = Detector(run, "cpu").score(tmp_path / "a.png")
    (tiled,) = Detector(make_run(tmp_path / "tiled", TILES), "cpu").score(tmp_path / "a.png")
    np.testing.assert_allclose(tiled.map, whole.map, rtol=1e-6)
    assert tiled.score == pytest.approx(whole.score)


def test_at_another_scale_the_map_is_enlarged_to_full_size(tmp_path):
    detector = Detector(make_run(tmp_path / "run", TileSettings(overlap=16, scale=0.5)), "cpu")
    write_image(tmp_path / "a.png", size=(200, 300))
    with Image.open(tmp_path / "a.png") as image:
        image.resize((150, 100), Image.Resampling.BILINEAR).save(tmp_path / "b.png")
    (found,) = detector.score(tmp_path / "a.png")
    (small,) = Detector(make_run(tmp_path / "native", TILES), "cpu").score(tmp_path / "b.png")
    np.testing.assert_array_equal(found.map, small.map)
    assert found.full_size_map().shape == (200, 300)


def test_nothing_of_an_image_is_kept_while_the_next_is_read(detector, tmp_path, monkeypatch):
    """Neither its pixels nor its map: of 100 megapixels these are 700 MB."""
    made: list[weakref.ref] = []
    alive = []
    to_pixels, compute = detector.pixels, detector.compute_whole

    def read(image: Image.Image) -> np.ndarray:
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))
        pixels = to_pixels(image)
        made.append(weakref.ref(pixels))
        return pixels

    def watched(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        anomaly_map, score = compute(pixels)
        made.append(weakref.ref(anomaly_map))
        return anomaly_map, score

    monkeypatch.setattr(detector, "pixels", read)
    monkeypatch.setattr(detector, "compute_whole", watched)
    for number in range(4):
        write_image(tmp_path / f"in/{number}.png", number, (100, 90))
    predict(detector, [tmp_path / "in"], tmp_path / "out", full_size=True)
    assert alive == [0, 0, 0, 0] and len(made) == 8


@pytest.mark.parametrize("method", ["uniad", "dinomaly"])
def test_the_score_is_the_highest_that_the_methods_rule_gives_a_part(method, monkeypatch, detector):
    """Rules that count a share of the pixels, or a window of them, keep their meaning at any size of the image."""
    from omniad.models.baselines.dinomaly import Dinomaly
    from omniad.models.baselines.uniad import UniAD

    rule = {"uniad": UniAD, "dinomaly": Dinomaly}[method].image_scores
    monkeypatch.setattr(detector.model, "image_scores", lambda maps: rule(detector.model, maps))
    pixels = np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    anomaly_map, score = detector.compute_whole(pixels)
    padded = np.pad(anomaly_map, ((0, 12), (0, 30)), "reflect")
    parts = [padded[top : top + 64, left : left + 64] for top in (0, 48) for left in (0, 48, 96)]
    assert score == pytest.approx(float(rule(detector.model, torch.from_numpy(np.stack(parts))).max()))


def test_images_of_any_size_are_scored_and_too_small_ones_told(detector, tmp_path):
    folder = tmp_path / "in"
    for number, size in enumerate([(64, 64), (64, 300), (201, 65), (150, 150)]):
        write_image(folder / f"{number}.png", number, size)
    write_image(folder / "small.png", 9, (63, 200))
    with pytest.raises(UserError, match=r"1 of 5 images .*small\.png \(200x63 pixels, smaller than a tile of 64; use"):
        predict(detector, [folder], tmp_path / "out")
    for number, size in enumerate([(64, 64), (64, 300), (201, 65), (150, 150)]):
        assert np.load(tmp_path / f"out/maps/{number}.npy").shape == size
        with Image.open(tmp_path / f"out/overlays/{number}.png") as drawn:
            assert drawn.size == size[::-1]


def test_a_small_spot_of_a_large_map_is_outlined(tmp_path, monkeypatch):
    """The overlay is a view of at most 1024 pixels; one high pixel of many is not lost in it."""
    detector = Detector(make_run(tmp_path / "run", TILES), "cpu", threshold=1.0)
    write_image(tmp_path / "a.png", size=(300, 3000))
    anomaly_map = np.zeros((300, 3000), np.float32)
    anomaly_map[200, 2000] = 2
    monkeypatch.setattr(detector, "compute_whole", lambda pixels: (anomaly_map, 2.0))
    predict(detector, [tmp_path / "a.png"], tmp_path / "out")
    with Image.open(tmp_path / "out/overlays/a.png") as drawn:
        red, _, blue = (np.asarray(channel).astype(int) for channel in drawn.split())
    assert abs(red - blue)[68, 682] > 0 or red[68, 682] == 255
    assert np.count_nonzero(red != blue) + np.count_nonzero(red == 255) < 10


def test_the_evaluation_of_other_runs_refuses_one_on_tiles(tmp_path):
    with pytest.raises(UserError, match=r"a run on tiles; `omniad evaluate`, or omniad\.detector\.evaluate"):
        evaluate(make_run(tmp_path / "run", TILES), torch.device("cpu"))
