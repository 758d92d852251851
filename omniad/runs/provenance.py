"""What produced a number: a run's resolved settings (`config.yaml`), and commit, versions, hardware and hashes
(`provenance.json`)."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omniad.config import RunSettings, read_yaml, to_yaml, validate
from omniad.errors import UserError
from omniad.files import atomic_write, read_text, reading
from omniad.parallel import usable_cores
from omniad.runs.files import CONFIG, PREPARED, PROVENANCE

if TYPE_CHECKING:
    import torch

PACKAGES = ("omniad", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "numba", "pandas")
MOST_BYTES = 1_000_000  # of provenance.json
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class _Record(BaseModel):
    """Whatever else was recorded is let be."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


Text = Annotated[str, Field(max_length=1000)]
Number = Annotated[float, Field(ge=0, le=1e15)]


class _Part(_Record):
    """Of training or evaluation."""

    started: Text = ""
    wall_s: Number = 0
    energy_j: Number = 0
    peak_memory_mib: dict[Text, Number] = {}
    hardware: dict[Text, Text | Number | None] = {}
    model_sha256: Text = ""


class _Facts(_Record):
    """Of what is read from provenance.json, the types: a bundle brings files of strangers."""

    commit: Text = ""
    seed: int = 0
    config_sha256: Text = ""
    model_sha256: Text = ""
    versions: dict[Text, Text] = {}
    hardware: dict[Text, Text | Number | None] = {}
    weights: dict[Text, Text | None] = {}
    data: dict[Text, Text | Number | None] = {}
    training: _Part = _Part()
    evaluation: _Part = _Part()


def load_run_settings(run_dir: str | Path) -> RunSettings:
    """A run's resolved settings, from its folder's config.yaml.

    `omniad fit` keeps a run's images in its folder, where they are found wherever that was moved.

    Raises:
        UserError: the folder holds no run, or its config.yaml is damaged.
    """
    file = Path(run_dir) / CONFIG
    with reading(file, "can't be read"):
        there = file.is_file()
    if not there:
        raise UserError(f"{run_dir}: not a run folder: it has no {CONFIG}; `omniad train` or `omniad fit` makes one")
    settings, own_images = validate(RunSettings, read_yaml(file), str(file)), Path(run_dir, PREPARED)
    if not own_images.is_dir():
        return settings
    return settings.model_copy(update={"data": settings.data.model_copy(update={"prepared": str(own_images)})})


def save_run_settings(settings: RunSettings, run_dir: Path) -> None:
    """Write a run folder's config.yaml."""
    with atomic_write(run_dir / CONFIG) as file:
        file.write(to_yaml(settings))


def commit() -> str:
    """The checkout's commit, with `-dirty` behind it when tracked files differ; "unknown" without a checkout or git."""
    if not (REPOSITORY / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here, e.g. in a container
        return "unknown"
    return answer.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose numbers the results rest on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine: processor, cores this process may use, memory, and the GPU with its driver when one is used."""
    import torch  # takes seconds, which reading a record should not wait for

    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": str(device.type),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "driver": _driver_version(),
        }
    return facts


def peak_memory_mib(device: torch.device) -> dict[str, int]:
    """Largest memory so far: of the process, and on the GPU when one is used."""
    import torch

    unit = 2**10 if platform.system() == "Linux" else 2**20  # ru_maxrss is KiB on Linux, bytes on macOS
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(device) // 2**20
    return peak


def read_provenance(run_dir: Path) -> dict[str, Any]:
    """What is recorded in a run folder so far; empty when nothing is.

    Raises:
        UserError: it is no JSON object, or an entry is of another type than the one that is written.
    """
    file = run_dir / PROVENANCE
    with reading(file, "damaged; evaluate the run again, or remove the file"):
        facts = json.loads(read_text(file, MOST_BYTES)) if file.exists() else {}
        if not isinstance(facts, dict):
            raise ValueError("not a JSON object")
        _check(facts)
    return facts


def _check(facts: dict[str, Any]) -> None:
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        raise ValueError(f"'{'.'.join(map(str, problem['loc']))[:80]}': {problem['msg']}") from None


def write_provenance(run_dir: Path, **entries: Any) -> None:
    """Add entries to a run folder's provenance.json; an entry of the same name is replaced."""
    with atomic_write(run_dir / PROVENANCE) as file:
        json.dump(read_provenance(run_dir) | entries, file, indent=2, sort_keys=True)
        file.write("\n")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _driver_version() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split("  ")[1].strip()
    except (OSError, IndexError):
        return "unknown"
