"""Whatever a file of a run, a checkpoint or a table holds: it is read, or refused in one line, and nothing else."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_runs import make_run
from mutations import TEXTS, mutated

from omniad.bundle import bundle, unbundle
from omniad.detector.threshold import Threshold, read_threshold, write_threshold
from omniad.errors import UserError
from omniad.metrics import metrics_of_files
from omniad.metrics.definitions import DEFINITIONS, METRICS
from omniad.models import load_model
from omniad.models.encoder import read_entries
from omniad.models.import_released import infer_settings
from omniad.reporting.complexity import COLUMNS, read_complexity, read_resolutions
from omniad.reporting.paper import read_paper
from omniad.reporting.records import record, versions
from omniad.runs.artifacts import (
    Example,
    read_curves,
    read_epochs,
    read_examples,
    read_history,
    read_scores,
    write_curves,
    write_epochs,
    write_examples,
    write_history,
    write_scores,
)
from omniad.runs.finished import FinishedRun, read_run
from omniad.runs.measurements import collect, write_metrics
from omniad.runs.progress import read_progress
from omniad.runs.provenance import load_run_settings, read_provenance, write_provenance
from omniad.status import _left, _position
from omniad.training.state import StateFolder

LONGEST = 3000  # characters of a message
RUN = Path("runs/parts/untrained/seed0")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with everything that one can hold, as the program writes it; its weights are random."""
    folder = tmp_path_factory.mktemp("results") / RUN
    make_run(folder)
    rng = np.random.default_rng(0)
    write_history(folder, [{"epoch": 1, "loss": 2.5, "seconds": 1.0}, {"epoch": 2, "loss": 1.5, "seconds": 1.0}])
    write_epochs(
        folder,
        [{"epoch": 1, "metric": name, "definition": each, "value": 0.5} for name in METRICS for each in DEFINITIONS],
    )
    write_scores(folder, [("a/0.png", "a", 0, 0.25), ("a/1.png", "a", 1, 0.75), ("b/0.png", "b", 1, 0.5)])
    write_curves(folder, {name: {"pro": rng.random((2, 5)), "image_roc": rng.random((2, 3))} for name in "ab"})
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    example = Example("figure", "a/1.png", 1, 0.75, image, np.eye(8, dtype=bool), np.ones((8, 8), np.float32))
    write_examples(folder, "a", [example, example])
    lines = [(name, metric, each, 0.5, "", 0.1) for name in ("a", "mean") for metric in METRICS for each in DEFINITIONS]
    write_metrics(folder, lines)
    write_provenance(
        folder,
        commit="abc",
        seed=0,
        versions={"torch": "2"},
        hardware={"cpu": "a CPU", "threads": 2, "gpu": "a GPU"},
        weights={"kind": "random", "sha256": "0"},
        data={"sha256": "0", "images": 3},
        training={"wall_s": 1.0, "started": "2026-01-01T10:00:00", "peak_memory_mib": {"process": 5}, "energy_j": 2.0},
        evaluation={"wall_s": 1.0, "energy_j": 2.0},
    )
    write_threshold(folder, Threshold(0.5, 0.99, 3, 0.1, {"a": 0.5}, "0"))
    progress = {"epoch": 1, "epochs": 5, "step": 3, "left_s": 2.0, "updated": "2026-01-01T10:00:00+00:00"}
    (folder / "state").mkdir()
    (folder / "state" / "progress.json").write_text(json.dumps(progress | {"prepared": 0.5, "host": "a"}))
    StateFolder(folder / "state", {"seed": "0"}).save({"model": {}, "position": {"epoch": 1}})
    released = {"net_t.conv1.weight": torch.ones(8, 3, 7, 7), "Neck.x": torch.ones(2), "net_s.y": torch.ones(2)}
    torch.save({"net": released}, folder / "net.pth")
    np.save(folder / "maps.npy", rng.random((2, 4, 4), np.float32))
    (folder / "paper.csv").write_text(
        "dataset,row,metric,value,note\nmvtec,Omni-AD,mAD,87.1,\nvisa,Omni-AD,mAD,80.1,x\n"
    )
    (folder / "complexity.csv").write_text(f"{','.join(COLUMNS)}\ntable1,Omni-AD,released,5,6,1.5,2.5,\n")
    (folder / "resolution.csv").write_text("attention,image_size,parameters,macs\nplain,256,5,6\n")
    bundle([folder], folder / "b.zip")
    return folder


def _record(file: Path) -> None:
    found = FinishedRun(file.parent, "parts", "untrained", 0, SETTINGS[0], read_provenance(file.parent))
    record(found, file.parent)
    versions([found])


def _progress(file: Path) -> None:
    progress = read_progress(file.parent.parent)
    _position(progress)
    _left(progress)


SETTINGS: list[Any] = []  # the run's, for readers that need them beside their own file
READERS: dict[str, Callable[[Path], Any]] = {
    "config.yaml": lambda file: load_run_settings(file.parent),
    "provenance.json": _record,
    "metrics.csv": lambda file: collect([FinishedRun(file.parent, "parts", "untrained", 0, SETTINGS[0])]),
    "scores.csv": lambda file: read_scores(file.parent),
    "history.csv": lambda file: read_history(file.parent),
    "epochs.csv": lambda file: read_epochs(file.parent, "exact"),
    "curves.npz": lambda file: read_curves(file.parent),
    "examples/a.npz": read_examples,
    "threshold.json": lambda file: read_threshold(file.parent),
    "state/progress.json": _progress,
    "state/latest.pt": lambda file: StateFolder(file.parent, {"seed": "0"}).load(),
    "model.safetensors": lambda file: load_model(file.parent),
    "net.pth": lambda file: infer_settings(read_entries(file), "none", str(file)),
    "maps.npy": lambda file: metrics_of_files(file, file),
    "paper.csv": read_paper,
    "complexity.csv": read_complexity,
    "resolution.csv": read_resolutions,
    "b.zip": lambda file: unbundle(file, file.parent / "away"),
}
CASES = {"model.safetensors": 100, "b.zip": 60, "config.yaml": 150, "net.pth": 150, "state/latest.pt": 150}


def assert_read_or_refused(read: Callable[[Path], Any], file: Path) -> None:
    try:
        read(file)
    except UserError as error:
        text = str(error)
        assert len(text) <= LONGEST
        assert "\n" not in text and "\x1b" not in text


@pytest.fixture
def place(run, tmp_path) -> Path:
    """A copy of the run, one file of which is about to change."""
    SETTINGS[:] = [load_run_settings(run)]
    folder = tmp_path / RUN
    for file in run.rglob("*"):
        if file.is_file():
            (folder / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(run)).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", READERS)
def test_the_file_as_written_is_read(place, name):
    READERS[name](place / name)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(place, name):
    content, file = (place / name).read_bytes(), place / name
    rng = np.random.default_rng(len(name))
    for _ in range(CASES.get(name, 250)):
        file.write_bytes(mutated(content, rng))
        assert_read_or_refused(READERS[name], file)


@pytest.mark.parametrize("name", READERS)
def test_files_of_any_content(place, name):
    file = place / name
    rng = np.random.default_rng(1)
    strange = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
    for content in [
        b"",
        b"\0" * 100,
        b"PK\x03\x04",
        b"\x93NUMPY",
        *strange,
        *(rng.bytes(size) for size in (1, 8, 100)),
    ]:
        file.write_bytes(content)
        assert_read_or_refused(READERS[name], file)
    file.unlink()
    file.mkdir()
    assert_read_or_refused(READERS[name], file)


HOSTILE_VALUES = [
    *(None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "x" * 10_000, "\0", "$_$", "a\nb"),
    *([], {}, [1], {"a": 1}, {"": {}}, [[[]]], "2026-01-01"),
]


@pytest.mark.parametrize("name", ["provenance.json", "threshold.json", "state/progress.json"])
def test_json_with_any_value_in_any_place(place, name):
    facts = json.loads((place / name).read_text())
    paths = [(key,) for key in facts] + [
        (key, inner) for key in facts if isinstance(facts[key], dict) for inner in facts[key]
    ]
    for path in paths:
        for value in HOSTILE_VALUES:
            changed = json.loads(json.dumps(facts))
            holder = changed if len(path) == 1 else changed[path[0]]
            holder[path[-1]] = value
            (place / name).write_text(json.dumps(changed))
            assert_read_or_refused(READERS[name], place / name)


SHAPES = [(), (0,), (1,), (2,), (2, 0), (2, 1), (2, 8, 8), (2, 0, 0), (2, 8, 8, 3), (2, 0, 0, 3)]
TYPES = [np.uint8, np.float16, np.float32, np.float64, np.int64, bool, complex, "U5", "S5", "M8[s]"]
ARRAYS = [
    *(np.zeros(shape, kind) for shape in SHAPES for kind in TYPES),
    *(np.full((2, 3), np.nan), np.full((2, 3), np.inf, np.float32), np.full((2, 8, 8), np.inf, np.float16)),
    *(np.full((2,), 7), np.array(["\n", "$_$"]), np.zeros((2, 3), [("a", int)]), np.full((2, 8, 8), -1, np.int8)),
]


@pytest.mark.parametrize("name", ["curves.npz", "examples/a.npz"])
def test_arrays_of_any_kind_in_any_place(place, name):
    with np.load(place / name) as stored:
        arrays = dict(stored)
    for key in arrays:
        for array in ARRAYS:
            np.savez(place / name, allow_pickle=False, **arrays | {key: array})
            assert_read_or_refused(READERS[name], place / name)
    for key in arrays:  # one less; all of one kind
        np.savez(place / name, allow_pickle=False, **{other: array for other, array in arrays.items() if other != key})
        assert_read_or_refused(READERS[name], place / name)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_npy_of_any_kind(place, array):
    np.save(place / "maps.npy", array)
    assert_read_or_refused(READERS["maps.npy"], place / "maps.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 4L, 4L), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 4, 4), }",
        "(" * 3000,
        "{'descr': " + "[" * 400 + "]" * 400 + ", 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'shape': " + "9" * 5000 + "}",
        "'",
    ],
)
def test_hostile_npy_headers(place, header):
    text = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 128
    (place / "maps.npy").write_bytes(data)
    assert_read_or_refused(READERS["maps.npy"], place / "maps.npy")
    for name, member in (("curves.npz", "a/pro.npy"), ("examples/a.npz", "maps.npy")):
        with zipfile.ZipFile(place / name, "w") as archive:
            archive.writestr(member, data)
        with pytest.raises(UserError, match=r"npz: not written by `omniad evaluate`"):
            READERS[name](place / name)


def test_the_run_s_names_are_read_from_its_place(place):
    assert read_run(place).run == "untrained"
