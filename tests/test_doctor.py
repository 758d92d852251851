"""`omniad doctor` on machines that lack things: each is found, told with what to do, and only broken things fail."""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from omniad import doctor
from omniad.cli import main
from omniad.config import Settings, load_settings, merge
from omniad.miniature import write_miniature

TRAIN = ["--dataset", "mvtec", "--run", "default", "--seed", "0", "--out", "run"]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mini"
    write_miniature("mvtec", folder)
    return folder


@pytest.fixture
def settings(data_set, tmp_path):
    """A configuration of one data set, the miniature, with a table of its true counts."""
    kinds = sorted({file.parent for file in data_set.glob("*/t*/*/*.png")})
    lines = [f"{kind.parts[-3]},{kind.parts[-2]},{kind.name},{len(list(kind.iterdir()))}" for kind in kinds]
    (tmp_path / "counts.csv").write_text("\n".join(["class,split,defect,images", *lines]) + "\n")
    source = {"title": "Mini", "layout": "mvtec", "folder": str(data_set), "counts": str(tmp_path / "counts.csv")}
    values = {"datasets": ["mini"], "sources": {"mini": source}, "data": {"weights": str(tmp_path / "weights")}}
    return Settings.model_validate(values)


def findings(settings: Settings) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine(settings)}


def test_a_data_set_with_the_published_counts_is_verified(settings):
    found = findings(settings)["Mini"]
    images = len(list(Path(settings.sources["mini"].folder).glob("*/t*/*/*.png")))
    assert (found.state, found.text.split()[0]) == ("ok", f"{images:,}")


def test_a_missing_image_is_named_by_its_kind(settings, tmp_path):
    source = settings.sources["mini"]
    copy = shutil.copytree(source.folder, tmp_path / "copy")
    gone = sorted(copy.glob("*/test/good/*.png"))[0]
    gone.unlink()
    changed = settings.model_copy(update={"sources": {"mini": source.model_copy(update={"folder": str(copy)})}})
    found = findings(changed)["Mini"]
    assert found.state == "broken"
    assert f"{gone.parts[-4]}, test good" in found.text


def test_a_data_set_that_is_not_there_is_told_with_its_address(settings):
    change = {"folder": "absent", "url": "https://example.org/mini.tar", "archive": "mini.tar", "size_bytes": 10**9}
    source = settings.sources["mini"].model_copy(update=change)
    found = findings(settings.model_copy(update={"sources": {"mini": source}}))["Mini"]
    assert found.state == "missing"
    assert "`omniad fetch mini`" in found.text and "https://example.org/mini.tar" in found.text


def test_a_data_set_that_no_table_needs_is_told_to_be_optional(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = findings(load_settings())
    assert {name for name, finding in found.items() if "no table needs it" in finding.text} == {
        "MVTec AD 2",
        "MVTec LOCO AD",
    }


def test_an_archive_that_waits_to_be_extracted_is_told(settings, tmp_path):
    (tmp_path / "mini.tar").write_bytes(b"")
    source = settings.sources["mini"].model_copy(
        update={"folder": "absent", "url": "https://example.org/mini.tar", "archive": str(tmp_path / "mini.tar")}
    )
    found = findings(settings.model_copy(update={"sources": {"mini": source}}))["Mini"]
    assert (found.state, "omniad extract mini" in found.text) == ("missing", True)


def test_each_missing_file_of_weights_is_told_once(tmp_path):
    """DiAD needs two files, its networks' and the ResNet-50's."""
    settings = merge(load_settings().model_dump(), {"data": {"weights": str(tmp_path)}})
    missing = [found.text for found in doctor.examine(Settings.model_validate(settings)) if found.what == "weights"]
    assert len(missing) > 8
    assert len(set(missing)) == len(missing)
    told = {
        name: text for text in missing for name in ("dinov2_vitb14", "resnet34-43635321") if f"weights {name}" in text
    }
    assert told["dinov2_vitb14"].endswith(" (for 1 run: dinomaly)")
    assert " runs: default, released, no_learnable, only_q and " in told["resnet34-43635321"]


def test_weights_are_missing_then_not_the_right_ones_then_verified(settings, tmp_path, monkeypatch):
    file = tmp_path / "weights" / "resnet34-43635321.pth"
    assert findings(settings)["weights"].state == "missing"
    file.parent.mkdir()
    file.write_bytes(b"something else")
    found = findings(settings)["weights"]
    assert (found.state, "not that of" in found.text) == ("broken", True)
    right = hashlib.sha256(b"something else").hexdigest()[:8]
    monkeypatch.setattr("omniad.data.weights.name_hash", lambda name: right)
    assert findings(settings)["weights"].state == "ok"


def test_textures_are_missing_then_there(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {
        "runs": {"textured": {"training": {"textures": "dtd"}}},
        "downloads": {"textures": {"title": "Textures", "folder": "dtd"}},
    }
    settings = Settings.model_validate(merge(settings.model_dump(), values))
    found = findings(settings)["textures"]
    assert (found.state, "`omniad fetch textures`" in found.text) == ("missing", True)
    (tmp_path / "dtd" / "braided").mkdir(parents=True)
    assert findings(settings)["textures"].state == "ok"


def test_packages_that_do_not_fit_each_other_are_broken(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it now fails, as for a mismatched pair
    found = findings(settings)
    assert (found["torchvision"].state, found["torch"].state) == ("broken", "ok")
    assert "pip install torch torchvision" in found["torchvision"].text
    assert found["torch"].text == torch.__version__


def test_slurm_is_what_sinfo_says(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings(settings)["Slurm"].state == "missing"
    for name, script in (("sbatch", "exit 0"), ("sinfo", "echo gpu_a100; echo debug*")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    found = findings(settings)["Slurm"]
    assert (found.state, "gpu_a100, debug*" in found.text) == ("ok", True)
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'cannot reach the controller' >&2; exit 1\n")
    found = findings(settings)["Slurm"]
    assert (found.state, "cannot reach the controller" in found.text) == ("missing", True)


def test_a_gpu_that_torch_cannot_use_is_broken_and_none_is_not(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert findings(settings)["CUDA"].state == "missing"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: some card (UUID: GPU-1)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert findings(settings)["CUDA"].state == "broken"


def test_what_is_missing_passes_and_what_is_broken_fails(settings, tmp_path, monkeypatch, capsys):
    """The whole command, as typed, with its exit status, in a few seconds."""
    monkeypatch.chdir(tmp_path)
    overlay = tmp_path / "own.yaml"
    overlay.write_text(yaml.safe_dump(settings.model_dump(include={"datasets", "sources", "data"})))
    start = time.perf_counter()
    assert main(["doctor", "--config", str(overlay)]) == 0
    assert time.perf_counter() - start < 5
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "missing"}
    assert f"ok       torchvision: {torchvision.__version__}" in lines
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet34-43635321.pth").write_bytes(b"cut off")
    assert main(["doctor", "--config", str(overlay)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "omniad: broken, see above: weights\n"


def test_outside_a_checkout_nothing_is_configured_and_that_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omniad.config.reading.CONFIG_FOLDER", tmp_path / "absent")
    assert load_settings().sources == {}
    assert main(["doctor"]) == 0
    assert "none are configured outside a checkout" in capsys.readouterr().out
    for command in (["complexity"], ["report"], ["check"], ["train", *TRAIN]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "run this in a checkout of omniad" in error and error.count(os.linesep) == 1
