"""The installed package alone, outside a checkout; a killed fit that goes on; the README's Python lines."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from detector_runs import TINY, no_speed_test, write_image, write_images

from omniad.detector.fit import fit
from omniad.detector.presets import Chosen

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package out of a wheel that is built from a copy of the project, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("install")
    (folder / "project").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "project")
    shutil.copytree(REPOSITORY / "omniad", folder / "project/omniad", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as backend; backend.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "project", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder / "site", "zip")
    return folder / "site"


def command(installed: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a call of the installed package."""
    return [sys.executable, "-m", "omniad", *arguments], {**os.environ, "PYTHONPATH": str(installed)}


def call(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line, environment = command(installed, *arguments)
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_fit_killed_and_repeated_then_predict_outside_a_checkout(installed, tmp_path, monkeypatch):
    overlay = TINY.model_dump(include={"data": {"image_size"}, "model": True, "training": True, "evaluation": True})
    overlay["training"]["save_every_s"] = 0.0
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    write_images(tmp_path / "bolts", 10)
    arguments = ("fit", "bolts", "--out", "run", "--epochs", "15", "--config", "tiny.yaml")
    line, environment = command(installed, *arguments)
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/state/previous.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run/model.safetensors").exists()
    again = call(installed, tmp_path, *arguments)
    assert (again.returncode, "resuming after epoch" in again.stderr) == (0, True), again.stderr
    no_speed_test(monkeypatch)
    fit(tmp_path / "bolts", tmp_path / "whole", epochs=15, settings=TINY)
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]

    write_image(tmp_path / "new.png", 20, (100, 60))
    predicted = call(installed, tmp_path, "predict", "run", "new.png", "bolts", "--out", "predictions")
    assert predicted.returncode == 0, predicted.stderr
    lines = (tmp_path / "predictions/scores.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("path,score,verdict,name", 12)
    assert all(line.split(",")[2] in ("good", "anomalous") for line in lines[1:])


def test_what_needs_a_checkout_says_so_in_one_line(installed, tmp_path):
    answer = call(installed, tmp_path, "complexity")
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert "run this in a checkout of omniad" in answer.stderr
    assert str(installed) not in answer.stderr


def test_presets_come_with_the_package(installed, tmp_path):
    answer = call(installed, tmp_path, "settings", "--preset", "fast")
    assert yaml.safe_load(answer.stdout)["model"]["method"] == "patch-memory"


def test_importing_omniad_imports_nothing_heavy(installed, tmp_path):
    code = "import omniad, sys; print(omniad.__file__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    _, environment = command(installed)
    answer = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert answer.split() == [str(installed / "omniad/__init__.py"), "False", "False"]


def test_the_five_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """As they stand there, with a small model that needs no ImageNet weights and few steps."""
    no_speed_test(monkeypatch)
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert len(list(filter(None, block.splitlines()))) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omniad.detector.fit.choose", lambda *_: Chosen(TINY, 5000, "a tiny model"))
    monkeypatch.setattr("omniad.detector.fit.EPOCHS", (1, 2))
    write_images(Path("bolts/good"), 8)
    write_images(Path("new_images"), 3)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [f"new_images/{number:03}.png" for number in range(3)]
    assert {line.split()[2] for line in printed} <= {"good", "anomalous"}
    assert len(list(Path("predictions/overlays").glob("*.png"))) == 3
