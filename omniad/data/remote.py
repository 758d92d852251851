"""Which files a download consists of: their addresses, sizes, hashes and places."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omniad.config import DownloadSettings, SourceSettings
from omniad.data.counts import chosen_classes, read_counts
from omniad.errors import UserError

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched, or put at `path` by hand."""

    path: Path
    title: str
    licence: str = ""
    urls: tuple[str, ...] = ()
    size: int = 0  # bytes; 0: not known
    sha256: str = ""  # in hexadecimal, the whole or its first characters; "": not published
    hub: str = ""  # a data set's name on the Hugging Face hub, instead of urls
    name: str = ""  # its path there


def remote_files(download: DownloadSettings) -> list[RemoteFile]:
    """The archives of a data set; none if it is only put in place by hand, or made here.

    Raises:
        UserError: a data set of the hub has no table of counts, which names its classes.
    """
    if getattr(download, "miniature", False) or not download.archive:
        return []
    place = Path(download.archive)
    if download.hub:
        names = hub_names(download)
        return [
            RemoteFile(place / name, f"{download.title} {name}", download.licence, hub=download.hub, name=name)
            for name in names
        ]
    if not place.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UserError(f"{download.title}: archive: {place} must end in one of {', '.join(ARCHIVE_SUFFIXES)}")
    urls = tuple(url for url in (download.url, *download.mirrors) if url)
    return [RemoteFile(place, download.title, download.licence, urls, download.size_bytes, download.sha256)]


def hub_names(download: DownloadSettings) -> list[str]:
    """Real-IAD's files on the hub: the labels, and one archive a class at the chosen resolution."""
    if not isinstance(download, SourceSettings) or download.layout != "realiad":
        raise UserError(f"{download.title}: only data sets in Real-IAD's layout are fetched from the hub")
    counts = read_counts(download.counts, views=[])
    if counts is None:
        raise UserError(f"{download.title}: counts: a table is needed here, because it names the classes to fetch")
    classes = sorted(chosen_classes(download, (class_ for class_, _, _ in counts)))
    return ["realiad_jsons.zip", *(f"realiad_{download.resolution}/{name}.zip" for name in classes)]
