"""docs/from-python.md: every example runs, as it is written there."""

import re
import shutil
from pathlib import Path

import pytest
from training_runs import CPU

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/from-python.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(number: int) -> None:
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), {})


def test_there_are_four():
    assert len(EXAMPLES) == 4


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
