"""Share results: pack finished runs into one zip, and unpack them into a results folder, checked, without running code.

A bundle holds `bundle.json` (format, and the sha256 of every file) and `runs/<dataset>/<run>/seed<n>/` with what a
report and a detector need. The state for resuming (state/) is not included.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from omniad.data.archives import is_zip
from omniad.data.extract import extract
from omniad.detector.threshold import read_threshold
from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write, read_text, reading, sha256_file
from omniad.reporting.costs import spent
from omniad.reporting.records import record, versions
from omniad.runs.artifacts import example_files, read_curves, read_epochs, read_examples, read_history, read_scores
from omniad.runs.files import (
    CONFIG,
    CURVES,
    EPOCHS,
    EXAMPLES,
    HISTORY,
    METRICS,
    MODEL,
    PROVENANCE,
    SCORES,
    THRESHOLD,
    run_name,
)
from omniad.runs.finished import FinishedRun, finished_runs
from omniad.runs.measurements import check_means, collect
from omniad.runs.provenance import load_run_settings, read_provenance
from omniad.runs.weights import measured_others
from omniad.wording import shown

FORMAT = 1
MANIFEST = "bundle.json"
NEEDED = (CONFIG, METRICS, PROVENANCE)
FILES = (*NEEDED, MODEL, HISTORY, EPOCHS, SCORES, CURVES, THRESHOLD)
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
MEMBER = re.compile(rf"runs/{NAME}/{NAME}/seed\d+/(?:{'|'.join(map(re.escape, FILES))}|{EXAMPLES}/[^/.][^/]*\.npz)")

log = logging.getLogger(__name__)


def bundle(run_dirs: Iterable[Path], out: Path) -> list[str]:
    """Write these run folders into one zip; the same runs give the same bytes.

    Returns:
        The runs' names in the bundle: <dataset>/<run>/seed<n>.

    Raises:
        UserError: a folder is not an evaluated run, two are the same run, or `out` is not a .zip or cannot be written.
    """
    runs: dict[str, Path] = {}
    for folder in run_dirs:
        name = _run_name(folder)
        if name in runs:
            raise UserError(f"{folder}: is the run {name}, as is {runs[name]}; name each run once")
        runs[name] = folder
    if not runs:
        raise UserError("omniad bundle: name at least one run folder")
    if not is_zip(out):  # `unbundle` would take it for a tar
        raise UserError(f"{out}: a bundle is a zip; name it {out.name}.zip")
    files = {f"runs/{name}/{part}": folder / part for name, folder in sorted(runs.items()) for part in _parts(folder)}
    manifest = {"format": FORMAT, "files": {name: sha256_file(file) for name, file in files.items()}}
    with atomic_write(out, "wb") as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
        # ZipInfo's default date, 1980, is kept: a bundle does not reveal when it was packed.
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, indent=1) + "\n")
        for name, file in files.items():
            with file.open("rb") as source, archive.open(_info(name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
    return sorted(runs)


def unbundle(archive: Path, results: Path) -> list[str]:
    """Check a bundle and put its runs into `results`/runs, all of them or none; nothing in it is executed.

    Returns:
        The runs that were added; runs that are already there, with identical files, are left out.

    Raises:
        UserError: the archive is damaged or hostile, a hash differs, a file is not what its name says, or another run
            is already in a run's place.
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such file")
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unbundle-", dir=results) as name:
            folder = Path(name)
            extract(archive, folder)
            _check_files(archive, folder)
            _check_runs(archive, folder)
            return _move(folder, results)
    except OSError as error:
        raise cannot_write(results, error) from None


def _run_name(folder: Path) -> str:
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"{folder}: not a finished run: it has no {', '.join(absent)}; train it, then run `omniad evaluate`"
        )
    settings, facts = load_run_settings(folder), read_provenance(folder)
    if problem := measured_others(folder, facts, thorough=True):
        raise UserError(problem)
    seed = facts.get("seed")
    if not isinstance(seed, int):
        there = run_name(folder.resolve())
        seed = there.seed if there else folder.name
    name = f"{settings.dataset}/{settings.run}/seed{seed}"
    if not MEMBER.fullmatch(f"runs/{name}/{METRICS}"):
        raise UserError(f"{folder}: '{name}' is not a run folder's name, which must be seed<number>")
    return name


def _parts(folder: Path) -> list[str]:
    examples = [file.relative_to(folder).as_posix() for file in example_files(folder)]
    return [name for name in FILES if (folder / name).is_file()] + examples


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _check_files(archive: Path, folder: Path) -> None:
    """Check that the bundle has exactly the listed files, all of known kinds, each with its hash."""
    with reading(archive, f"not made by `omniad bundle`: no readable {MANIFEST}"):
        if not (folder / MANIFEST).is_file():
            raise ValueError("it is not there")
        manifest = json.loads(read_text(folder / MANIFEST))
        listed = dict(manifest["files"])
        if manifest["format"] != FORMAT:
            raise UserError(f"{archive}: a bundle of format {shown(manifest['format'])}; this version reads {FORMAT}")
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
    strange = sorted(name for name in found | set(listed) if not MEMBER.fullmatch(name))
    if strange:
        raise UserError(f"{archive}: contains {shown(strange[0])}, which is not a file of a run; nothing was unpacked")
    if found != set(listed):
        raise UserError(
            f"{archive}: {shown(min(found ^ set(listed)))} is listed but missing, or there but not listed; "
            "nothing was unpacked"
        )
    for name, sha256 in listed.items():
        if sha256_file(folder / name) != sha256:
            raise UserError(
                f"{archive}: '{name}' was changed after bundling (its sha256 differs); nothing was unpacked"
            )


def _check_runs(archive: Path, folder: Path) -> None:
    """Check that every run is the one its folder's name says, and that its metrics are valid."""
    runs = finished_runs(folder)
    names = {PurePosixPath(*file.relative_to(folder).parts[:4]) for file in folder.glob("runs/*/*/seed*/*")}
    complete = {PurePosixPath(run.folder.relative_to(folder).as_posix()) for run in runs}
    if names != complete or not runs:
        raise UserError(f"{archive}: contains no finished run, or one without metrics; nothing was unpacked")
    for run in runs:
        if (run.settings.dataset, run.settings.run) != (run.dataset, run.run):
            raise UserError(
                f"{archive}: {run.dataset}/{run.run} says in its config.yaml that it is "
                f"{run.settings.dataset}/{run.settings.run}; nothing was kept"
            )
        check_means(collect([run]))
        _check_readable(run)
        recorded = run.provenance.get("model_sha256")
        weights = run.folder / MODEL
        changed = recorded and weights.is_file() and sha256_file(weights) != recorded
        if changed or measured_others(run.folder, run.provenance, thorough=True):
            raise UserError(f"{archive}: the weights of {run.dataset}/{run.run} are not the ones that were evaluated")
        if weights.is_file():
            from omniad.models import load_model  # torch takes seconds to import

            load_model(run.folder)  # they are those of its config.yaml, finite, and no code is in them


def _check_readable(run: FinishedRun) -> None:
    """Check that everything a report or a detector reads of a run can be read, so that no bundle can break one."""
    for read in (read_history, read_scores, read_curves, read_threshold):
        read(run.folder)
    for file in example_files(run.folder):
        read_examples(file)
    read_epochs(run.folder, "exact")
    with reading(run.folder / PROVENANCE, "not written by `omniad train`; nothing was unpacked"):
        record(run, run.folder)
        spent([run])
        versions([run])


def _move(folder: Path, results: Path) -> list[str]:
    """Move the runs into place, all or none."""
    new = []
    for run in finished_runs(folder):
        name = run.folder.relative_to(folder / "runs").as_posix()
        place = results / "runs" / name
        if not place.exists():
            new.append(name)
        elif any(
            not (place / part).is_file() or sha256_file(place / part) != sha256_file(run.folder / part)
            for part in _parts(run.folder)
        ):
            raise UserError(f"{place}: already holds another run; choose another folder with --results")
    for name in new:
        place = results / "runs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / name).rename(place)
    return new
