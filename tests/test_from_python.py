"""docs/from-python.md: every example runs, as it is written there."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_runs import PATCHES, SIZE, no_speed_test, write_image
from training_runs import CPU

from omniad.detector.detector import Detector
from omniad.detector.export import export
from omniad.detector.fit import fit

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/from-python.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(number: int) -> dict[str, Any]:
    """What the example's names stand for at its end."""
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), names)
    return names


def test_there_are_six():
    assert len(EXAMPLES) == 6


def test_the_model_gives_features_and_reconstructions(folder, capsys):
    run(0)
    assert capsys.readouterr().out == "[(2, 64, 64, 64), (2, 128, 32, 32), (2, 256, 16, 16)]\n"


def test_metrics_of_ones_own_maps(folder, capsys):
    run(1)
    exact, published = map(float, capsys.readouterr().out.split())
    assert 0 < published < exact <= 1


@pytest.mark.slow
def test_a_run_is_trained_and_scores_images(folder, capsys, monkeypatch):
    monkeypatch.setattr("omniad.training.train.pick_device", lambda: CPU)
    run(2)
    assert (folder / "my_run/metrics.csv").is_file()
    shutil.copytree(next(folder.glob("results/demo/data/raw/mvtec/*/test/good")), folder / "images")
    run(3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list((folder / "images").iterdir()))


def test_an_exported_graph_gives_score_and_verdict_of_the_detector(folder, capsys):
    for number in range(4):
        write_image(folder / f"bolts/{number}.png", number)
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        fit(folder / "bolts", folder / "my_run", settings=PATCHES)
    export(folder / "my_run", folder / "detector.onnx")
    write_image(folder / "photograph.png", 9, (90, 70))
    (found,) = Detector(folder / "my_run", "cpu").score("photograph.png")
    run(4)
    score, verdict = capsys.readouterr().out.splitlines()[-1].split()
    assert float(score) == pytest.approx(found.score, abs=1e-4)
    assert verdict == found.verdict


def test_tiles_around_an_exported_graph_give_what_the_detector_gives(folder, capsys):
    """Of a method whose maps have something expected taken off."""
    for number in range(3):
        write_image(folder / f"slabs/{number}.png", number, (100, 150))
    with pytest.MonkeyPatch.context() as patch:
        no_speed_test(patch)
        fit(folder / "slabs", folder / "run", settings=PATCHES, tile=SIZE, overlap=32)
    export(folder / "run", folder / "detector.onnx")
    write_image(folder / "photograph.png", 9, (110, 175))
    (found,) = Detector(folder / "run", "cpu").score("photograph.png")
    result = run(5)
    np.testing.assert_allclose(result["anomaly_map"], found.map, atol=1e-4)
    assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(found.score, abs=1e-4)
    assert np.abs(found.map).max() > 0.01
