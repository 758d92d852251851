"""`benchmarks/gpu.py` where there is no GPU: every part runs, tiny; parts that hang or fail cost only themselves."""

import importlib
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"


def call(out, *arguments, script=SCRIPT):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "--out", str(out), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_every_part_runs_without_a_gpu(tmp_path):
    answer = call(tmp_path, "--dry", "--minutes", 10)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    parts = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(parts, "finished")
    assert len(parts) == 12 and all(part["rows"] for part in parts.values())
    failures = [row for part in parts.values() for row in part["rows"] if "Error" in row.get("note", "")]
    assert failures == []
    tables = (tmp_path / "gpu.md").read_text()
    assert all(f"`--only {name}`" in tables for name in parts)


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module, with parts of this test's own."""
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    return importlib.import_module("gpu")


def test_a_part_that_fails_or_hangs_costs_only_itself_and_a_finished_one_is_not_run_again(gpu, tmp_path, monkeypatch):
    def hangs(bench):
        yield {"row": 1}
        time.sleep(600)

    def fails(bench):
        yield {"row": 2}
        raise ValueError("broken")

    def works(bench):
        yield {"row": 3, "dry": bench.dry}

    parts = types.ModuleType("gpu_parts.fake")
    parts.__dict__.update(hangs=hangs, fails=fails, works=works)
    monkeypatch.setitem(sys.modules, "gpu_parts.fake", parts)  # the children are forked
    monkeypatch.setattr(gpu, "LEAST_S", 0)
    fake = {name: gpu.Part(name, f"fake.{name}", 4 if name == "hangs" else 60) for name in ("hangs", "fails", "works")}
    monkeypatch.setattr(gpu, "PARTS", fake)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--dry"])
    assert gpu.main() == 1
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in fake}
    assert [found[name]["rows"] for name in fake] == [[{"row": 1}], [{"row": 2}], [{"row": 3, "dry": True}]]
    assert found["hangs"]["state"] == "cut off after 4 s" and found["works"]["state"] == "finished"
    assert found["fails"]["state"] == "failed with status 1" and "ValueError: broken" in found["fails"]["error"]
    before = (tmp_path / "works.json").stat().st_mtime_ns
    monkeypatch.setitem(fake, "hangs", gpu.Part("hangs", "fake.works", 60))
    monkeypatch.setitem(fake, "fails", gpu.Part("fails", "fake.works", 60))
    assert gpu.main() == 0
    assert (tmp_path / "works.json").stat().st_mtime_ns == before


def test_a_budget_that_is_spent_begins_nothing(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--dry", "--minutes", "0.1"])
    monkeypatch.setattr(gpu, "import_once", lambda: None)
    assert gpu.main() == 0
    assert capsys.readouterr().out.count("not started") == len(gpu.PARTS)


def test_rows_of_different_kinds_share_a_table(gpu):
    rows = [{"a": 1, "b": None}, {"a": 2, "c": "x|y"}]
    assert gpu.table(rows) == ["| a | b | c |", "|---|---|---|", "| 1 |  |  |", "| 2 |  | x/y |", ""]
