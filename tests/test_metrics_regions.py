"""Regions against SciPy, the order of keys, and AU-PRO worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from oracles import label_regions

from omniad.metrics import class_metrics, evaluate_class
from omniad.metrics.counts import ClassPixels
from omniad.metrics.kernels import find_regions


def regions_of(mask: np.ndarray) -> np.ndarray:
    """Region of every pixel, from 1; 0 outside."""
    begin, end, parent, areas = np.empty((4, mask.size + 1), np.int32)
    runs, regions = find_regions(mask, begin, end, parent, areas)
    labels = np.zeros(mask.size, int)
    for run in range(runs):
        labels[begin[run] : end[run]] = parent[run] + 1
    assert np.array_equal(np.bincount(labels, minlength=regions + 1)[1:], areas[:regions])
    return labels.reshape(mask.shape)


def assert_same_regions(mask: np.ndarray) -> None:
    """SciPy numbers regions in another order, perhaps; each of ours must be exactly one of its."""
    got, (expected, number) = regions_of(mask), label_regions(mask[None])
    pairs = {(int(a), int(b)) for a, b in zip(got.ravel(), expected.ravel(), strict=True)} - {(0, 0)}
    assert len(pairs) == number == got.max(initial=0)
    assert all(a and b for a, b in pairs)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_regions_of_any_mask(mask):
    assert_same_regions(mask)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.4, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("shape", [(64, 64), (1, 200), (200, 1), (31, 90)])
def test_regions_of_large_masks(density, shape):
    assert_same_regions(np.random.default_rng(int(100 * density)).random(shape) < density)


@pytest.mark.parametrize(
    ("rows", "regions"),
    [
        (["#.", ".#"], 1),  # corners touch
        ([".#", "#."], 1),
        (["#..#", ".##."], 1),
        (["##.", "..#", "##."], 1),
        (["#.#", "#.#", "###"], 1),  # a U: two labels meet at the bottom
        (["#.#.#", ".....", "#####"], 4),
        (["..#", "#..", "..#"], 3),  # the end of a row does not touch the start of the next
        (["#"], 1),
    ],
)
def test_eight_neighbours_touch(rows, regions):
    mask = np.array([[character == "#" for character in row] for row in rows])
    assert regions_of(mask).max() == regions


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2), st.sampled_from(["f4", "f8"]))
def test_keys_order_like_scores_and_turn_back(scores, dtype):
    scores = np.array(scores, dtype)
    pixels = ClassPixels(np.zeros((1, 1, 1), dtype), np.zeros((1, 1, 1)))
    keys = pixels.keys_of(scores)
    assert np.array_equal(
        np.sign(np.subtract.outer(scores, scores)), np.sign(keys[:, None] - keys[None].astype(object))
    )
    assert np.array_equal(pixels.scores_of(keys), scores)


def test_au_pro_by_hand():
    """A region of one pixel, one of four, ten normal pixels, so 0.3 is the third of them.

    From the top: 9, the small region: PRO 1/2. 8, a normal pixel: rate .1. 7, half of the large one: PRO 3/4. 6, two
    normal
    pixels: rate .3. So the area is .1 * 1/2 + .2 * 3/4 = .2.
    """
    masks = np.array([[[1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]])
    maps = np.array([[[9.0, 8, 7, 7, 1, 1, 6, 6, 0, 0, 0, 0, 0, 0, 0]]])
    assert class_metrics(maps, masks)["AU-PRO"] == pytest.approx(0.2 / 0.3, abs=1e-12)


def test_au_pro_weighs_regions_not_pixels():
    """A region of four pixels is found at once, one of a single pixel last: PRO is 1/2 while the normal pixels come."""
    masks = np.array([[[1, 1, 1, 1, 0, 1, 0, 0, 0]]])
    maps = np.array([[[5.0, 5, 5, 5, 1, -1, 1, 1, 1]]])
    assert class_metrics(maps, masks)["AU-PRO"] == pytest.approx(0.5, abs=1e-12)


def test_au_pro_of_a_tie_that_passes_the_limit():
    """Half of the region ties with the first of four normal pixels, the other half with the other three.

    A slope from (0, 0) to (.25, .5): area .0625. One from there to (1, 1), cut at .3 where it is .5 + .5 * .05 / .75:
    area .05 * (.5 + .53333) / 2 = .025833.
    """
    masks = np.array([[[1, 1, 1, 1, 0, 0, 0, 0]]])
    maps = np.array([[[2.0, 2, 1, 1, 2, 1, 1, 1]]])
    assert class_metrics(maps, masks)["AU-PRO"] == pytest.approx((0.0625 + 0.05 * (1 + 0.1 / 3) / 2) / 0.3, abs=1e-12)


def test_published_au_pro_by_hand():
    """Scores 0 to 100, so the thresholds are 0, 1, ... 99. One region of two pixels (100 and 50), ten normal pixels.

    Kept are the rates below .3: .2 (thresholds 10 to 59: normal 60, 60 above) with PRO 1 below 50 and 1/2 from 50 on,
    and 0 (from 60 on) with PRO 1/2. Rescaled, .2 becomes 1. The curve from (0, 1/2) to (1, 1/2): area 1/2, then
    straight up.
    """
    masks = np.array([[[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]])
    maps = np.array([[[100.0, 50, 60, 60, 10, 10, 10, 10, 10, 10, 10, 0]]])
    assert class_metrics(maps, masks, definition="published")["AU-PRO"] == pytest.approx(0.5, abs=1e-12)


def test_one_outlier_pixel_wrecks_the_published_au_pro_alone():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 32, 32), bool)
    masks[1:, 8:14, 8:14] = True
    maps = rng.random(masks.shape) + 0.5 * masks
    spoiled = maps.copy()
    spoiled[0, 0, 0] = 1000
    before, after = evaluate_class(maps, masks).metrics, evaluate_class(spoiled, masks).metrics
    assert after["exact"].fractions["AU-PRO"] == pytest.approx(before["exact"].fractions["AU-PRO"], abs=1e-3)
    assert before["published"].fractions["AU-PRO"] > 0.5
    assert not after["published"].fractions["AU-PRO"] > 0.1  # nan or nearly nothing
