"""The metrics of .npy files, as `omniad metrics` computes them."""

import numpy as np
import pytest

from omniad.errors import UserError
from omniad.metrics import METRICS, class_metrics, metrics_of_files


def test_metrics_of_files(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.random((5, 8, 9)) < 0.2
    labels = np.array([0, 1, 1, 0, 1])
    maps = (rng.random(masks.shape) + masks).astype(np.float32)
    for name, array in (("maps", maps), ("masks", masks), ("labels", labels)):
        np.save(tmp_path / f"{name}.npy", array)
    files = tmp_path / "maps.npy", tmp_path / "masks.npy", tmp_path / "labels.npy"
    assert list(metrics_of_files(*files)) == list(METRICS)
    assert metrics_of_files(*files) == class_metrics(maps, masks, labels)
    published = metrics_of_files(*files[:2], definition="published")
    assert published == pytest.approx(class_metrics(maps, masks, definition="published"), nan_ok=True)


def test_files_that_are_no_arrays_are_one_line(tmp_path):
    good, text, archive = tmp_path / "good.npy", tmp_path / "text.npy", tmp_path / "archive.npz"
    np.save(good, np.zeros((1, 2, 2)))
    text.write_text("not an array")
    np.savez(archive, a=np.zeros(1))
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    for bad, message in (
        (tmp_path / "none.npy", "no such file"),
        (text, "not an array"),
        (tmp_path / "object.npy", "not an array"),
        (archive, "archive"),
    ):
        with pytest.raises(UserError, match=message) as error:
            metrics_of_files(good, bad)
        assert "\n" not in str(error.value)
