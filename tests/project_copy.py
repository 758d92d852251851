"""The project in a folder of its own, as a fresh clone has it, and Snakemake there as a person types it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = ["pyproject.toml", "Snakefile", "workflow", "config", "profiles", "slurm", "omniad"]

# The demo at its smallest, an overlay of config/demo.yaml: one data set, small models, a handful of steps.
TINY: dict[str, Any] = {
    "results": "results/demo",
    "datasets": ["mvtec"],
    "data": {"image_size": 64},
    "model": {"encoder": "resnet18", "encoder_width": 8, "encoder_weights": "random", "depths": [1, 1, 1, 1]},
    "training": {"epochs": 1},
    "runs": {"resnet18": {"model": {"encoder_width": 8}}},
}


def copy_project(folder: Path) -> Path:
    """The project without data and results."""
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def start_snakemake(folder: Path, *arguments: str, output: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Snakemake in a copy of the project, with that copy's package; its whole output in one file, or on a pipe."""
    own = folder / ".venv/bin/python"
    command = [own if own.exists() else sys.executable, "-m", "snakemake", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)


def snakemake(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Run Snakemake to its end; its whole output."""
    process = start_snakemake(folder, *arguments)
    output = process.communicate()[0]
    assert process.returncode == expect, output
    return output


def jobs(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table that Snakemake prints."""
    table = output.partition("Job stats:")[2].partition("\ntotal")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
