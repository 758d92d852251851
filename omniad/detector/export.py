"""Export a run folder's model, from image to map and score, as one graph for programs without omniad.

The graph: images (B, 3, S, S), float32, RGB in [0, 1] -> maps (B, S, S), smoothed, and scores (B,), float32. B is free,
S is the run's resolution. Normalisation and smoothing are inside. The graph of a run on tiles takes tiles; what a
tile's map is expected to show (`Method.expected_map`) is taken off, so that maps can be blended as they come.
"""

from __future__ import annotations

import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from omniad.config import RunSettings
from omniad.data.packs import IMAGENET_MEAN, IMAGENET_STD
from omniad.errors import UserError
from omniad.files import cannot_write, in_one_line
from omniad.models import Method, load_model
from omniad.models.anomaly_map import smooth
from omniad.models.precision import arithmetic
from omniad.runs.provenance import load_run_settings

OPSET = 18  # of ONNX
TOLERANCE = 1e-4  # largest difference from PyTorch
BATCHES = (1, 3)  # sizes that the check runs

Graph = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
log = logging.getLogger(__name__)


def export(run_dir: str | Path, file: str | Path, format: Literal["onnx", "pt2"] = "onnx") -> float:
    """Write the graph of a run folder to one file, after a check that it computes what PyTorch does.

    Args:
        run_dir: `config.yaml` and `model.safetensors`.
        file: the file to write; it appears only if the check passes.
        format: "onnx", or "pt2" for torch.export.load.

    Returns:
        The largest difference from PyTorch, over maps and scores.

    Raises:
        UserError: the model draws random numbers, packages are missing, the graph can't be made, is not a single file
            or computes something else, the disk refuses the write.
    """
    settings = load_run_settings(run_dir)
    model = load_model(run_dir)
    if model.draws:
        raise UserError(
            f"{run_dir}: its model draws a random projection in every call, which a graph can't do; a model with "
            "model.projection: none, or variant: equations, can be exported"
        )
    whole, size = ImageToMap(model, settings).eval(), settings.data.image_size
    whole.requires_grad_(False)
    checks = [_computed(whole, size, batch) for batch in BATCHES]
    write, read = FORMATS[format]
    log.info("Exporting %s; this takes a minute or more for a full-size model.", run_dir)
    with _in_place(Path(file)) as temporary:
        try:
            with _silence():
                write(whole, size, temporary)
        except ImportError as error:
            raise UserError(f"{error.name} is missing: pip install 'omniad[export]'") from None
        except OSError:
            raise
        except Exception as error:  # the exporters raise anything for a model they can't follow
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise UserError(f"{run_dir}: its model can't be made into a graph: {in_one_line(error)}") from error
        graph = read(temporary)
        difference = float(np.max([_difference(graph, images, expected) for images, expected in checks]))
        if not difference <= TOLERANCE:
            raise UserError(f"{file}: not written: the graph's results differ from PyTorch's by {difference:.1e}")
    log.info("%s: %.1f MB; differs from PyTorch by at most %.1e", file, Path(file).stat().st_size / 1e6, difference)
    return difference


class ImageToMap(nn.Module):
    """The whole computation from an image in [0, 1] to its map and score."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Method, settings: RunSettings):
        super().__init__()
        self.model, self.sigma, self.size = model, settings.evaluation.sigma, settings.data.image_size
        self.tiled = settings.tiles is not None
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, S, S), (B,)."""
        features = self.model.encode((images - self.mean) / self.std)
        maps = smooth(self.model.anomaly_maps(features, self.size), self.sigma)
        scores = self.model.image_scores(maps)
        return (maps - self.model.expected_map(self.size) if self.tiled else maps), scores


def _write_onnx(whole: ImageToMap, size: int, file: Path) -> None:
    import onnx  # noqa: F401 (told when missing, before the minute that the export takes)
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    torch.onnx.export(
        whole,
        (_example(size),),
        file,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        external_data=False,
        input_names=["images"],
        output_names=["maps", "scores"],
        dynamic_shapes={"images": {0: "batch"}},
    )


def _read_onnx(file: Path) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def graph(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = session.run(["maps", "scores"], {"images": images})
        return np.asarray(maps), np.asarray(scores)

    return graph


def _write_pt2(whole: ImageToMap, size: int, file: Path) -> None:
    dynamic = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(whole, (_example(size),), dynamic_shapes=dynamic)
    content = io.BytesIO()  # torch's own writing hides why it failed
    torch.export.save(program, content)
    file.write_bytes(content.getbuffer())


def _read_pt2(file: Path) -> Graph:
    program = torch.export.load(file).module()

    def graph(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = program(torch.from_numpy(images))
        return maps.numpy(), scores.numpy()

    return graph


FORMATS = {"onnx": (_write_onnx, _read_onnx), "pt2": (_write_pt2, _read_pt2)}


def _example(size: int) -> Tensor:
    return torch.rand(2, 3, size, size)  # a batch of 1 would be taken for a constant


@torch.inference_mode()
def _computed(whole: ImageToMap, size: int, batch: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A batch of seeded noise, and what PyTorch makes of it."""
    images = np.random.default_rng(batch).random((batch, 3, size, size), np.float32)
    with arithmetic("fp32", torch.device("cpu")):
        return images, [tensor.numpy() for tensor in whole(torch.from_numpy(images))]


def _difference(graph: Graph, images: np.ndarray, expected: list[np.ndarray]) -> float:
    """The largest one; infinite when the shapes differ."""
    found = graph(images)
    if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
        return math.inf
    return float(np.max([np.abs(a - b).max() for a, b in zip(expected, found, strict=True)]))  # NaN when one is


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporters' warnings and internal messages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _in_place(file: Path) -> Iterator[Path]:
    """A path to write to, in a folder of its own; what is there at the end becomes `file`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            yield Path(folder, file.name)
            if others := [name for name in os.listdir(folder) if name != file.name]:  # noqa: PTH208
                raise UserError(f"{file}: not written: the graph needs more files ({', '.join(others)})")
            Path(folder, file.name).replace(file)
    except OSError as error:
        raise cannot_write(file, error) from None
