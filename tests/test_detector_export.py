"""Exported graphs: one file, any batch size, the same maps and scores as PyTorch, checked here and by the command."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detector_runs import SIZE, make_run, write_image
from PIL import Image

from omniad.cli import main
from omniad.detector import export as module
from omniad.detector.detector import Detector
from omniad.detector.export import export
from omniad.errors import UserError
from omniad.models import load_model
from omniad.runs.provenance import load_run_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def onnx_file(run) -> Path:
    """Exported as typed."""
    file = run.parent / "detector.onnx"
    assert main(["export", str(run), "--format", "onnx", "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[list[Path], np.ndarray]:
    """Five files, and their pixels as the graphs take them."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.stack([write_image(folder / f"{number}.png", number) for number in range(5)])
    return sorted(folder.iterdir()), (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def check(run: Path, images: tuple[list[Path], np.ndarray], maps: np.ndarray, scores: np.ndarray) -> None:
    """The same as `omniad predict` makes of the files, at a batch size that the exporter did not see."""
    predicted = list(Detector(run, "cpu").score(images[0]))
    assert (maps.shape, scores.shape) == ((5, SIZE, SIZE), (5,))
    np.testing.assert_allclose(maps, np.stack([one.map for one in predicted]), atol=1e-4)
    np.testing.assert_allclose(scores, [one.score for one in predicted], atol=1e-4)
    assert np.ptp(scores) > 1e-3  # far more than the tolerance: the graph does look at the images


@pytest.mark.slow
def test_onnx_is_one_file_for_any_batch_that_computes_the_same(run, onnx_file, images):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    assert [(put.name, put.shape, put.type) for put in session.get_inputs()] == [
        ("images", ["batch", 3, SIZE, SIZE], "tensor(float)")
    ]
    maps, scores = session.run(["maps", "scores"], {"images": images[1]})
    check(run, images, np.asarray(maps), np.asarray(scores))


def test_onnx_holds_everything_itself_at_a_known_opset(onnx_file):
    model = onnx.load(onnx_file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == module.OPSET
    assert [path.name for path in onnx_file.parent.glob("*detector*")] == [onnx_file.name]
    assert str(onnx_file.parent).encode() not in onnx_file.read_bytes()


@pytest.mark.slow
def test_pt2_computes_the_same_with_the_other_parts_that_a_model_can_have(images, tmp_path):
    parts = {"variant": "released", "projection": "none", "first_attention": "kv", "second_attention": "q"}
    run, file = make_run(tmp_path / "run", None, encoder="resnet50", **parts), tmp_path / "new" / "detector.pt2"
    assert main(["export", str(run), "--format", "pt2", "--out", str(file)]) == 0
    maps, scores = torch.export.load(file).module()(torch.from_numpy(images[1]))
    check(run, images, maps.numpy(), scores.numpy())


def test_a_random_projection_is_refused_in_one_line(tmp_path, capsys):
    run = make_run(tmp_path / "run", variant="released")
    assert main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]) == 1
    error = capsys.readouterr().err
    assert "draws a random projection in every call" in error and error.count("\n") == 1
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("error", [2e-4, np.nan])
def test_a_graph_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch, error):
    whole = module.ImageToMap(load_model(run), load_run_settings(run))

    def write(whole, size: int, file: Path) -> None:
        file.write_text("a graph")

    def read(file: Path) -> module.Graph:
        @torch.inference_mode()
        def graph(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            maps, scores = whole(torch.from_numpy(images))
            return maps.numpy() + wrong, scores.numpy()

        return graph

    monkeypatch.setitem(module.FORMATS, "pt2", (write, read))
    (tmp_path / "a.pt2").write_text("an older one")
    wrong = error
    with pytest.raises(UserError, match="not written: the graph's results differ from PyTorch's by"):
        export(run, tmp_path / "a.pt2", "pt2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pt2", "an older one")]
    wrong = 0
    assert export(run, tmp_path / "a.pt2", "pt2") < 1e-6
    assert (tmp_path / "a.pt2").read_text() == "a graph"


def test_a_missing_package_is_named_before_the_work(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]) == 1
    assert capsys.readouterr().err == "omniad: onnxscript is missing: pip install 'omniad[export]'\n"


def test_a_place_that_cannot_be_written_is_told(run, tmp_path, capsys):
    Image.new("L", (1, 1)).save(tmp_path / "file.png")
    assert main(["export", str(run), "--format", "pt2", "--out", str(tmp_path / "file.png" / "a.pt2")]) == 1
    assert "cannot write" in capsys.readouterr().err
