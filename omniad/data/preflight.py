"""Before anything is downloaded or trained: check that all the runs need is available; report what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from omniad.config import DataSettings, DownloadSettings, RunSettings, SourceSettings
from omniad.data.counts import expected_counts
from omniad.data.download import unreachable
from omniad.data.hub import missing_for_hub
from omniad.data.packs import NOTE
from omniad.data.remote import RemoteFile, remote_files
from omniad.data.weights import files_by_place, missing_weights, weights_paths
from omniad.errors import UserError
from omniad.files import has_files

UNPACKED = 1.1  # extracted images take about as much room as their archive
LIBRARIES = {"diad": "diffusers"}  # method, also the name of the extra that brings it -> library
FULL_RESOLUTION = 1024  # whose size is given for Real-IAD


@dataclass(frozen=True)
class _Wanted:
    """Something to fetch, and what to do if that is not possible."""

    title: str
    urls: tuple[str, ...]  # one that answers is enough
    by_hand: str
    obstacle: str = ""  # what stands in the way besides the network


def preflight(
    sources: Mapping[str, SourceSettings],
    runs: Iterable[RunSettings],
    data: DataSettings,
    downloads: Mapping[str, DownloadSettings] | None = None,
) -> None:
    """Check the data sets that are about to be indexed, and weights and textures of the runs about to be trained.

    Missing files that can be fetched are no problem: the address must respond within ten seconds, the disk must have
    room, and a gated data set needs the user's token.

    Raises:
        UserError: names everything that is missing, where to get it and where to put it.
    """
    problems: list[str] = []
    wanted: list[_Wanted] = []
    for source in sources.values():
        expected_counts(source)  # a class that does not exist is reported alone, before anything that may be missing
        try:
            wanted += _wanted_archives(source)
        except UserError as error:
            problems.append(str(error))
    for run in runs:
        problems += _missing_library(run)
        for wanted_of in (_wanted_weights, partial(_wanted_textures, downloads=downloads or {})):
            try:
                wanted += wanted_of(run)
            except UserError as error:
                problems.append(str(error))
    wanted = list(dict.fromkeys(wanted))
    silent = _silent_hosts(url for each in wanted for url in each.urls)
    for each in wanted:
        reasons = [silent[url] for url in each.urls]
        if each.obstacle or all(reasons):
            problems.append(f"{each.title}: {'; '.join(filter(None, [each.obstacle, *reasons]))}. {each.by_hand}")
    problems += full_disks(sources, data)
    problems = list(dict.fromkeys(problems))
    if problems:
        listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, 1))
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise UserError(
            f"{count} missing; nothing was started.{listed}\n"
            "  `snakemake ... --config datasets='[mvtec]'` runs only with the data sets you name.\n"
            "  `make demo` needs none of this: it runs the whole paper in miniature on synthetic data."
        )


def _wanted_archives(source: DownloadSettings) -> list[_Wanted]:
    """A data set's archives that are not there; none when its folder is. Raises UserError for what can't be fetched."""
    if getattr(source, "miniature", False) or has_files(source.folder):
        return []
    files = remote_files(source)
    _check_sizes(files)
    absent = [file for file in files if not file.path.is_file()]
    if files and not absent:
        return []
    place = f"put its files into {source.folder}/"
    if not files:
        where = f"get it from {source.url} and " if source.url else ""
        raise UserError(f"{source.title}: {source.folder}/ is missing or empty; {where}{place}")
    what = ", ".join(str(file.path) for file in absent[:3]) + (f", ... ({len(absent)} files)" if absent[3:] else "")
    by_hand = f"Get it from {source.url or 'its owner'} and put {what} in place, or {place}"
    if source.hub:
        return [_Wanted(source.title, (source.url,) if source.url else (), by_hand, missing_for_hub())]
    return [_Wanted(source.title, absent[0].urls, by_hand, "" if absent[0].urls else "no address is known")]


def _missing_library(run: RunSettings) -> list[str]:
    """What to install for a method that is built from a library which not everybody needs."""
    library = LIBRARIES.get(run.model.method)
    if library is None or importlib.util.find_spec(library):
        return []
    return [f"the library {library}, which run {run.run} needs: python -m pip install 'omniad[{run.model.method}]'"]


def _wanted_weights(run: RunSettings) -> list[_Wanted]:
    """A run's weights that are not there. Raises UserError for those that can't be fetched."""
    known = files_by_place(run.data)
    absent = [path for path in weights_paths(run.model, run.data) if not path.is_file()]
    if any(path not in known for path in absent):
        raise UserError(missing_weights(run.model, run.data))
    files = [known[path] for path in absent]
    return [
        _Wanted(file.title, file.urls, f"Get them from {file.urls[0]} and put the file at {file.path}")
        for file in files
    ]


def _wanted_textures(run: RunSettings, downloads: Mapping[str, DownloadSettings]) -> list[_Wanted]:
    """The download whose folder a run takes textures from, if it is not there; other folders must be."""
    folder = Path(run.training.textures)
    if not run.training.textures or has_files(folder):
        return []
    for download in downloads.values():
        if Path(download.folder) == folder:
            return _wanted_archives(download)
    raise UserError(f"training.textures of run '{run.run}': {folder}/ is missing or empty; put images into it")


def _check_sizes(files: list[RemoteFile]) -> None:
    """Refuse a truncated archive that was put there by hand; its hash is checked when it is used."""
    for file in files:
        if file.path.is_file() and file.size and file.path.stat().st_size != file.size:
            found = file.path.stat().st_size
            raise UserError(f"{file.path}: has {found:,} bytes instead of {file.size:,}; remove it and fetch it again")


def _silent_hosts(urls: Iterable[str]) -> dict[str, str]:
    """Address -> why nothing answers there, "" when something does. All are asked at once."""
    urls = sorted(set(urls))
    if not urls:
        return {}
    with ThreadPoolExecutor(max_workers=len(urls)) as pool:
        reasons = pool.map(unreachable, urls)
        return {
            url: f"{urlsplit(url).hostname} {reason}" if reason else ""
            for url, reason in zip(urls, reasons, strict=True)
        }


def full_disks(sources: Mapping[str, SourceSettings], data: DataSettings) -> list[str]:
    """Disks that lack room for what is about to be fetched, extracted and packed there, and folders closed to it."""
    needs: dict[int, float] = defaultdict(float)  # device -> bytes
    places: dict[int, Path] = {}
    problems = []
    for name, source in sources.items():
        for place, size in room(name, source, data):
            existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
            needs[existing.stat().st_dev] += size
            places[existing.stat().st_dev] = existing
            if not os.access(existing if existing.is_dir() else existing.parent, os.W_OK | os.X_OK):
                problems.append(f"{existing.absolute()}: no permission to write here; change the folder's permissions")
    for device, needed in needs.items():
        free = shutil.disk_usage(places[device]).free
        if free < needed:
            problems.append(
                f"room on the disk of {places[device].absolute()}: archives, extracted files and packs need about "
                f"{needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. Free some space, or set "
                "sources.<name>.folder, sources.<name>.archive or data.prepared to another disk"
            )
    return list(dict.fromkeys(problems))


def room(name: str, source: SourceSettings, data: DataSettings) -> Iterable[tuple[Path, float]]:
    """Places and the bytes that a data set still needs there."""
    if source.miniature:
        return
    if not has_files(source.folder) and source.archive:
        size = source.size_bytes * ((source.resolution / FULL_RESOLUTION) ** 2 if source.hub else 1)
        yield Path(source.folder), size * UNPACKED
        yield Path(source.archive), max(size - _present(Path(source.archive)), 0)
    pack = data.pack_folder(name)
    if not (pack / NOTE).is_file():
        counts = expected_counts(source)
        yield pack, 0 if counts is None else sum(counts.values()) * data.image_size**2 * 4


def _present(archive: Path) -> int:
    """Bytes of an archive, or of a folder of archives, that are there already, whole or in part."""
    if archive.is_dir():
        return sum(file.stat().st_size for file in archive.rglob("*") if file.is_file())
    files = (archive, archive.with_name(f".{archive.name}.part"))
    return sum(file.stat().st_size for file in files if file.is_file())
