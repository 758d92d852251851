"""Download one file over HTTP: resume where it broke off, retry with growing pauses, try further addresses."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from omniad.errors import UserError
from omniad.files import cannot_write

CONNECT_S, READ_S = 10, 60  # longest wait for a connection, and for the next bytes
BACKOFF_S = 1.0  # first pause; each further one is twice as long, up to a minute
ROUNDS = 5  # over all addresses, without a byte gained, before giving up
LINE_S = 30  # between two lines of progress in a log
PIECE = 2**16  # what is lost of a transfer that breaks off
BUSY = (408, 425, 429, 500, 502, 503, 504)  # "not now", in contrast to "never"

log = logging.getLogger(__name__)


class _Refused(Exception):
    """This address will not provide the file, however often it is asked."""


class _Broken(Exception):
    """The transfer ended early; another try may succeed."""


def download(urls: Sequence[str], partial: Path, size: int, resume: bool, title: str) -> tuple[str, bool]:
    """Download a file to `partial`, continuing what is there. The caller verifies its content.

    Args:
        urls: addresses of the same file, tried in turn.
        partial: where it grows; it is kept when a download fails, so that the next one continues it.
        size: in bytes; 0 when unknown.
        resume: False starts over whatever is there (a mixture of two versions could not be told from the file).
        title: for messages and the progress bar.

    Returns:
        The address that the end came from, and whether the whole file came from it.

    Raises:
        UserError: every address failed (each is named with its reason), or the disk refused the write.
    """
    usable, reasons = list(urls), {}
    longest, idle = _length(partial), 0
    with _session() as session:
        while usable and idle < ROUNDS:
            for url in tuple(usable):
                try:
                    return url, _receive(session, url, partial, size, resume, title)
                except _Refused as refusal:
                    usable.remove(url)
                    reasons[url] = str(refusal)
                    log.info("%s: %s: %s", title, _shown(url), refusal)
                except (requests.RequestException, _Broken) as error:
                    reasons[url] = _reason(error)
                except OSError as error:
                    raise cannot_write(partial, error) from None
            idle = 0 if _length(partial) > longest else idle + 1
            longest = max(longest, _length(partial))
            if usable and idle < ROUNDS:
                pause = min(BACKOFF_S * 2**idle, 60)
                why = "; ".join(f"{urlsplit(url).hostname}: {reason}" for url, reason in reasons.items())
                log.info("%s: %s; trying again in %.0f s", title, why, pause)
                time.sleep(pause)
    raise UserError(
        f"{title} could not be fetched: " + "; ".join(f"{_shown(url)}: {why}" for url, why in reasons.items())
    )


def unreachable(url: str) -> str:
    """Why nothing answers at an address, within ten seconds; "" when something does."""
    try:
        answer = requests.head(url, timeout=CONNECT_S, allow_redirects=True)
    except requests.RequestException as error:
        return _reason(error)
    return f"answers {answer.status_code}" if answer.status_code in (404, 410) else ""  # others may refuse HEAD alone


def _session() -> requests.Session:
    session = requests.Session()
    retry = Retry(
        total=2,
        backoff_factor=BACKOFF_S,
        status_forcelist=BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _receive(session: requests.Session, url: str, partial: Path, size: int, resume: bool, title: str) -> bool:
    """Ask for what is missing and append it to what is there. Returns whether all of it came from this address."""
    have = _length(partial) if resume else 0
    if size and have == size:
        return False
    if size and have > size:
        have = 0
    # Compression on the way would make a byte's position mean nothing.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as response:
        if response.status_code == 416 and have:
            partial.unlink()  # all of the file, whose size is not known, or another file's part
            raise _Broken(f"has no more than the {have:,} bytes already here; starting over")
        start, total = _start_and_total(response, have)
        if size and total and total != size:
            raise _Refused(f"offers {total:,} bytes instead of {size:,}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab" if start else "wb") as file, _progress(title, start, size or total) as advance:
            written = start
            for piece in response.iter_content(PIECE):
                written += len(piece)
                if size and written > size:
                    file.truncate(0)
                    raise _Refused(f"sends more than the {size:,} bytes of the file")
                file.write(piece)
                advance(len(piece))
    if written < (size or total):
        raise _Broken(f"broke off after {written:,} of {size or total:,} bytes")
    return start == 0


def _start_and_total(response: requests.Response, have: int) -> tuple[int, int]:
    """Position of the first byte that is coming, and the whole file's length (0: not told)."""
    if response.status_code == 206 and have:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != have:
            raise _Refused("sent a different part than requested")
        return have, 0 if found[2] == "*" else int(found[2])
    if response.status_code == 200:  # the whole file: a server that knows no Range ignores it
        return 0, int(response.headers.get("Content-Length", 0))
    if response.status_code in BUSY:
        raise _Broken(f"answers {response.status_code} {response.reason}")
    raise _Refused(f"answers {response.status_code} {response.reason}")


@contextmanager
def _progress(title: str, start: int, total: int) -> Iterator:
    """A bar on a terminal, or an occasional line in a log."""
    if sys.stderr.isatty():
        with tqdm(desc=title, initial=start, total=total or None, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    done, told = start, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= LINE_S:
            told = time.monotonic()
            log.info("%s: %s of %s MB", title, f"{done / 1e6:,.0f}", f"{total / 1e6:,.0f}" if total else "?")

    yield advance


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _reason(error: Exception) -> str:
    """A transfer's failure in a few words; requests' own messages repeat the whole address."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_S} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy can't be reached"
    if isinstance(error, requests.Timeout):
        return f"silent for {READ_S} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off"
    if isinstance(error, requests.ConnectionError):
        return "can't be reached"
    return str(error) if isinstance(error, _Broken) else type(error).__name__


def _shown(url: str) -> str:
    """An address without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
