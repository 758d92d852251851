"""The metrics against scikit-learn, SciPy and literal slow implementations, on random cases and hypothesis's."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as numpy_strategies
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import exact_metrics, published_metrics

from omniad.errors import UserError
from omniad.metrics import DEFINITIONS, METRICS, class_metrics, evaluate_class
from omniad.metrics.definitions import SEVEN

CLOSE = 1e-9
PROPERTY = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def assert_equal_to_oracles(maps: np.ndarray, masks: np.ndarray) -> None:
    labels = np.any(masks > 0, axis=(1, 2))
    result = evaluate_class(maps, masks)
    oracles = {"exact": exact_metrics(maps, masks, labels), "published": published_metrics(maps, masks)}
    for definition in DEFINITIONS:
        oracle = oracles[definition]
        got = result.metrics[definition].fractions
        for name in SEVEN:
            assert got[name] == pytest.approx(oracle[name], abs=CLOSE, nan_ok=True), (definition, name)
        assert got["mAD"] == pytest.approx(np.mean(list(oracle.values())), abs=CLOSE, nan_ok=True)
        assert set(result.metrics[definition].reasons) == {name for name in METRICS if math.isnan(got[name])}


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks of one of many kinds; at least one normal image, normal and anomalous pixels."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 7)), int(rng.integers(1, 15)), int(rng.integers(2, 15)))
    noise = rng.standard_normal(shape)
    kind = rng.integers(4)
    if kind == 0:  # single pixels and small clusters
        masks = rng.random(shape) < rng.choice([0.01, 0.05, 0.3])
    elif kind == 1:  # extreme prevalence: all but a few pixels
        masks = rng.random(shape) > 0.05
    else:  # rectangles
        masks = np.zeros(shape, bool)
        for image in range(1, shape[0]):
            y, x = rng.integers(shape[1]), rng.integers(shape[2])
            masks[image, y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    masks[0] = False
    masks[-1, 0, 0] = True
    scores = noise + masks * rng.choice([0.0, 0.5, 3.0])
    values = [scores, np.round(scores), np.round(scores, 1), np.exp(scores), -np.exp(scores * 5), scores * 1e-30]
    scores = values[rng.integers(len(values))]
    if rng.random() < 0.2:
        scores.flat[rng.integers(scores.size)] = 1e6  # an outlier
    return scores.astype(("f4", "f8")[rng.integers(2)]), masks.astype(("?", "u1", "f4")[rng.integers(3)])


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_random_cases_equal_the_oracles(first):
    for seed in range(first, first + 50):
        assert_equal_to_oracles(*random_case(seed))


SHAPES = numpy_strategies.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7)
FEW = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 7.0])  # many ties, both zeros
WIDE = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


@st.composite
def cases(draw) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    maps = draw(numpy_strategies.arrays(draw(st.sampled_from([np.float32, np.float64])), shape, elements=FEW | WIDE))
    masks = draw(numpy_strategies.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    masks[0] = 0
    masks[-1, 0, 0] = 1
    return maps, masks


@PROPERTY
@given(cases())
def test_any_case_equals_the_oracles(case):
    assert_equal_to_oracles(*case)


@PROPERTY
@given(cases())
def test_values_lie_between_0_and_1_and_rank_only(case):
    maps, masks = case
    got = class_metrics(maps, masks)
    assert all(0 <= value <= 1 for value in got.values())
    order = np.unique(maps)
    ranked = np.searchsorted(order, maps).astype(np.float32)  # any increasing function of the scores
    assert class_metrics(ranked, masks) == pytest.approx(got, abs=CLOSE)


@pytest.mark.parametrize("most_in_32_bits", [2**30, 0])
def test_many_images_are_shared_out_among_threads_without_a_difference(monkeypatch, most_in_32_bits):
    """Enough pixels for several threads, pieces and full buffers; one thread and three must agree bit for bit."""
    from omniad.metrics import counts

    rng = np.random.default_rng(0)
    masks = rng.random((9, 25, 50)) < 0.1
    masks[0] = False
    maps = (rng.standard_normal(masks.shape) + masks).astype(np.float32)
    alone = evaluate_class(maps, masks)
    monkeypatch.setattr(counts, "PIXELS_PER_THREAD", 2000)
    monkeypatch.setattr(counts, "PIXELS_AT_ONCE", 2500)
    monkeypatch.setattr(counts, "BUFFER_SIZES", (4100, 4100))
    monkeypatch.setattr(counts, "MOST_IN_32_BITS", most_in_32_bits)
    monkeypatch.setattr(counts.config, "NUMBA_NUM_THREADS", 3)
    shared = evaluate_class(maps, masks)
    assert alone.metrics == shared.metrics
    assert_equal_to_oracles(maps, masks)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8])
def test_any_number_type_is_read_as_its_values(dtype):
    rng = np.random.default_rng(1)
    masks = rng.random((4, 9, 9)) < 0.2
    masks[0] = False
    maps = (10 * rng.random(masks.shape) + 3 * masks).astype(dtype)
    labels = np.any(masks, axis=(1, 2))
    oracle = exact_metrics(maps.astype(float), masks, labels)
    got = class_metrics(maps, masks)
    assert {name: got[name] for name in SEVEN} == pytest.approx(oracle, abs=CLOSE)


def test_masks_need_not_be_binary_nor_arrays_contiguous():
    maps, masks = random_case(3)
    expected = class_metrics(maps, masks > 0)
    assert class_metrics(maps, (masks > 0) * np.uint8(255)) == expected
    assert class_metrics(maps, np.where(masks > 0, 2.5, -1.0)) == expected
    assert class_metrics(np.asfortranarray(maps), np.asfortranarray(masks)) == expected
    assert class_metrics(maps[:, ::-1], masks[:, ::-1]) == pytest.approx(expected, abs=CLOSE)


def test_each_definition_has_its_own_masks_where_they_differ():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((4, 16, 16), np.float32), np.zeros((4, 16, 16), bool)
    masks[1:, 4:8, 4:8] = True
    published = masks.copy()
    published[2, 4:8, 8] = True  # a column of halves
    result = evaluate_class(maps, masks, None, published)
    assert result.metrics["exact"].fractions == class_metrics(maps, masks, definition="exact")
    assert result.metrics["published"].fractions == class_metrics(maps, published, definition="published")
    assert result.metrics["published"].fractions != class_metrics(maps, masks, definition="published")
    with pytest.raises(UserError, match="masks: shape"):
        evaluate_class(maps, masks, None, published[:3])


def test_published_takes_the_image_label_from_the_resized_mask():
    """An annotated defect of which nothing is left in the mask: anomalous for exact, normal for published."""
    maps = np.array([[[0.1, 0.2]], [[0.3, 0.1]], [[0.2, 0.9]]])
    masks = np.array([[[0, 0]], [[0, 0]], [[0, 1]]])
    labels = np.array([0, 1, 1])
    result = evaluate_class(maps, masks, labels)
    assert result.metrics["exact"].fractions["I-F1max"] == 1  # both anomalous images score above the normal one
    assert class_metrics(maps, masks, ~labels.astype(bool))["I-AUROC"] == 0
    published = class_metrics(maps, masks, ~labels.astype(bool), "published")
    assert published["I-AUROC"] == 1  # labels are not looked at
    assert published == result.metrics["published"].fractions


def test_given_scores_replace_the_maximum():
    maps, masks = random_case(5)
    labels = np.any(masks > 0, axis=(1, 2))
    assert class_metrics(maps, masks, scores=labels.astype(float))["I-AUROC"] == 1
    result = evaluate_class(maps, masks)
    assert np.array_equal(result.image_scores, maps.max(axis=(1, 2)))


@pytest.mark.parametrize(
    ("mask", "undefined"),
    [
        (np.zeros((3, 4, 4)), set(METRICS)),  # nothing anomalous
        (np.ones((3, 4, 4)), {"I-AUROC", "P-AUROC", "AU-PRO", "mAD"}),  # nothing normal
        (np.ones((3, 4, 4)) * (np.arange(16).reshape(4, 4) > 5), {"I-AUROC", "mAD"}),  # no normal image
    ],
)
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_one_sided_classes_are_undefined_with_a_reason(mask, undefined, definition):
    maps = np.random.default_rng(0).random((3, 4, 4))
    measured = evaluate_class(maps, mask).metrics[definition]
    assert {name for name, value in measured.fractions.items() if math.isnan(value)} == undefined
    assert set(measured.reasons) == undefined
    assert all(
        "no normal" in reason or "no anomalous" in reason for n, reason in measured.reasons.items() if n != "mAD"
    )
    assert "I-AUROC" in measured.reasons["mAD"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, -0.0, 0.7, -3.0])
def test_constant_maps_rank_nothing(value, dtype):
    """A tie of everything: chance level by hand; AU-PRO is the triangle under the diagonal, .3 * .3 / 2 / .3."""
    maps, masks = np.full((4, 5, 5), value, dtype), np.zeros((4, 5, 5))
    masks[3, :2, :] = 1
    exact, published = (evaluate_class(maps, masks).metrics[definition] for definition in DEFINITIONS)
    assert exact.fractions["I-AUROC"] == exact.fractions["P-AUROC"] == 0.5
    assert exact.fractions["I-AP"] == pytest.approx(1 / 4)
    assert exact.fractions["P-AP"] == pytest.approx(10 / 100)
    assert exact.fractions["P-F1max"] == pytest.approx(2 * 10 / 110)
    assert exact.fractions["AU-PRO"] == pytest.approx(0.15)
    assert "constant" in published.reasons["P-F1max"]
    assert "constant" in published.reasons["AU-PRO"]


def test_the_two_zeros_are_one_score():
    masks = np.array([[[0, 0, 0]], [[1, 1, 0]]])
    maps = np.array([[[0.0, -0.0, -1.0]], [[-0.0, 0.0, 0.0]]], np.float32)
    for signs in (maps, np.where(maps == 0, np.float32(0), maps), np.where(maps == 0, np.float32(-0.0), maps)):
        assert class_metrics(signs, masks)["P-AUROC"] == pytest.approx((3 * 0.5 + 1) / 4)
        assert_equal_to_oracles(signs, masks)


def test_a_perfect_map():
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[1, 2:4, 2:4] = masks[2, 5:, 5:] = 1
    exact, published = (evaluate_class(masks + 0.0, masks).metrics[definition] for definition in DEFINITIONS)
    assert exact.fractions == pytest.approx(dict.fromkeys(METRICS, 1.0), abs=1e-12)
    assert published.fractions["P-F1max"] == pytest.approx(1, abs=1e-7)
    assert "same rate" in published.reasons["AU-PRO"]  # 0 at every threshold: there is nothing to rescale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_that_are_not_finite_are_refused_and_the_image_named(bad, dtype):
    maps = np.zeros((3, 4, 4), dtype)
    maps[1, 2, 3] = bad
    with pytest.raises(UserError, match="image 1: contains NaN"):
        class_metrics(maps, np.zeros((3, 4, 4)))
    with pytest.raises(UserError, match=r"image 1 \(b\.png\)"):
        class_metrics(maps, np.zeros((3, 4, 4)), names=["a.png", "b.png", "c.png"])
    with pytest.raises(UserError, match="score of image 2"):
        class_metrics(np.zeros((3, 4, 4)), np.zeros((3, 4, 4)), scores=np.array([0, 1, bad]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 4, 4)), np.zeros((2, 4, 5))), r"masks: shape \(2, 4, 5\) .* \(2, 4, 4\)"),
        ((np.zeros((2, 4, 4)), np.zeros((2, 1, 4, 4))), "masks: shape"),
        ((np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4))), r"maps: .* \(images, height, width\)"),
        ((np.zeros((0, 4, 4)), np.zeros((0, 4, 4))), "maps: .* without zeros"),
        ((np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), np.zeros(3)), r"labels: shape \(3,\)"),
        ((np.zeros((2, 4, 4), complex), np.zeros((2, 4, 4))), "maps: must contain numbers"),
        ((np.full((2, 4, 4), "x"), np.zeros((2, 4, 4))), "maps: must contain numbers"),
        ((np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), None, "exakt"), "exact or published"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        class_metrics(*arguments)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-3e38, 3e38, np.float32), (0, 1e-45, np.float32), (-1.7e308, 1.7e308, np.float64), (0, 5e-324, np.float64)],
)
def test_a_range_too_large_or_too_small_for_a_grid_is_said(low, high, dtype):
    maps = np.array([[[low, low]], [[low, high]]], dtype)
    masks = np.array([[[0, 0]], [[0, 1]]])
    result = evaluate_class(maps, masks)
    assert result.metrics["exact"].fractions["P-AUROC"] == 1
    assert "range" in result.metrics["published"].reasons["AU-PRO"]


def test_curves_are_thin_and_keep_their_ends():
    rng = np.random.default_rng(2)
    masks = rng.random((6, 50, 50)) < 0.2
    masks[0] = False
    curves = evaluate_class((rng.random(masks.shape) + masks).astype(np.float32), masks).curves
    assert set(curves) == {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}
    for name, (x, y) in curves.items():
        assert len(x) <= 512
        assert (np.diff(x) >= 0).all()
        if not name.endswith("pr"):
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, pytest.approx(1))
    auroc = class_metrics((rng.random(masks.shape) + masks).astype(np.float32), masks)["P-AUROC"]
    assert np.trapezoid(curves["pixel_roc"][1], curves["pixel_roc"][0]) == pytest.approx(auroc, abs=0.01)
