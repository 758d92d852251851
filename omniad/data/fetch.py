"""Download files, verify them and move them into place; a file put there by hand is verified in the same way.

Beside each file a `<name>.json` records where it came from, its size, sha256 and licence.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
from pathlib import Path
from typing import Any

from omniad.config import DownloadSettings, Settings, known
from omniad.data.download import download
from omniad.data.hub import fetch_from_hub
from omniad.data.remote import RemoteFile, remote_files
from omniad.data.weights import weight_files
from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write, has_files, sha256_file
from omniad.locks import locked

BY_HAND = "put in place by hand"

log = logging.getLogger(__name__)


def fetch_named(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Fetch by name: a data set, another download in the configuration, or a file of encoder weights.

    Returns:
        For each file its name, bytes and sha256.

    Raises:
        UserError: there is no such name, a file could not be fetched, or it is not the one it should be.
    """
    downloads = {**settings.downloads, **settings.sources}
    weights = weight_files(settings.data)
    known(name, [*downloads, *weights], "fetch")
    return fetch_archives(downloads[name]) if name in downloads else [fetch(weights[name])]


def fetch_archives(source: DownloadSettings) -> list[dict[str, Any]]:
    """All archives of a data set, whole and verified; none when its extracted folder is already there.

    Returns:
        For each archive its file, bytes and sha256: the same at every repetition.

    Raises:
        UserError: a file could not be fetched, or is not the one it should be.
    """
    if has_files(source.folder):
        log.info("%s: %s/ is there and used as it is; nothing is fetched.", source.title, source.folder)
        return []
    files = remote_files(source)
    if not files:
        raise UserError(f"{source.title}: it has no address to fetch from; put its files into {source.folder}/")
    if source.licence:
        log.info("%s: licence: %s. See %s", source.title, source.licence, source.url)
    return [fetch(file) for file in files]


def fetch(file: RemoteFile) -> dict[str, Any]:
    """One file, whole and verified, at its place.

    Returns:
        Its name, bytes and sha256.

    Raises:
        UserError: it could not be fetched, or is not the one it should be; a file put there by hand is left alone.
    """
    with locked(file.path):
        record = _read_record(file.path)
        if file.path.is_file():
            origin = record.get("from", BY_HAND)
            sha256 = sha256_file(file.path)
            if problem := _mismatch(file, file.path, sha256, record):
                raise UserError(f"{file.path}: {problem}; remove it and fetch it again")
        else:
            origin, sha256 = _bring(file)
        facts = {"file": file.path.name, "bytes": file.path.stat().st_size, "sha256": sha256}
        if record.get("sha256") != sha256:
            _write_record(file, {**facts, "from": origin})
    log.info("%s: %s is there, sha256 %s", file.title, file.path, sha256)
    return facts


def check_file(file: RemoteFile) -> None:
    """Compare an archive with the size and sha256 that are published for it, or were recorded when it came.

    Raises:
        UserError: it is another file.
    """
    record = _read_record(file.path)
    if not (file.size or file.sha256 or record.get("sha256")):
        return  # a person's own: nothing is known about it
    if problem := _mismatch(file, file.path, sha256_file(file.path), record):
        raise UserError(f"{file.path}: {problem}; remove it and fetch it again")


def _bring(file: RemoteFile) -> tuple[str, str]:
    """Download under a temporary name, verify, move into place. Returns the address and the sha256."""
    if file.hub:
        return fetch_from_hub(file.hub, file.name, file.path)
    if not file.urls:
        raise UserError(f"{file.title}: no address is known; put the file at {file.path}")
    partial = file.path.with_name(f".{file.path.name}.part")
    urls, problems = list(file.urls), []
    while urls and len(problems) <= len(file.urls):
        try:
            url, whole = download(urls, partial, file.size, bool(file.sha256), file.title)
        except UserError as error:
            hint = f"; or get it elsewhere and put it at {file.path}"
            raise UserError("; ".join([str(error), *problems]) + hint) from None
        sha256 = sha256_file(partial)
        problem = _mismatch(file, partial, sha256, {})
        if not problem:
            _move_into_place(partial, file.path)
            return url, sha256
        partial.unlink()
        problems.append(f"{url}: {problem}")
        log.info("%s: %s", file.title, problems[-1])
        if whole:  # else the wrong bytes may be another address's, and this one gets a try from the start
            urls.remove(url)
    raise UserError(f"{file.title}: no address provided the right file: " + "; ".join(problems))


def _mismatch(file: RemoteFile, place: Path, sha256: str, record: dict[str, Any]) -> str:
    """Why this is not the expected file; "" if it is."""
    size = place.stat().st_size
    if file.size and size != file.size:
        return f"has {size:,} bytes instead of {file.size:,}"
    if not sha256.startswith(file.sha256):
        return f"has sha256 {sha256} instead of {file.sha256}"
    if not file.sha256 and record.get("sha256", sha256) != sha256:
        return f"has sha256 {sha256}, and {_record_path(place)} recorded {record['sha256']} when it was fetched"
    return ""


def _move_into_place(partial: Path, path: Path) -> None:
    try:
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def _write_record(file: RemoteFile, facts: dict[str, Any]) -> None:
    published = {0: "nothing published; recorded here", 64: "published sha256"}
    note = {
        **facts,
        "title": file.title,
        "licence": file.licence,
        "verified_by": published.get(len(file.sha256), "the sha256's first characters, which are in the file's name"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with atomic_write(_record_path(file.path)) as out:
        json.dump(note, out, indent=1)
        out.write("\n")


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
