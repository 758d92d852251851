"""An HTTP server on the loopback interface that misbehaves as told, for the tests of fetching."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Served:
    """A file and how it is given out."""

    content: bytes
    ignores_range: bool = False
    break_after: int = 0  # close the connection after so many bytes; 0: never
    breaks: int = 10**9  # how often
    busy: int = 0  # answer 503 so often before anything else
    status: int = 0  # always answer this
    announced: int = 0  # Content-Length instead of the true one
    wrong_part: bool = False  # answer a Range with another part
    piece_s: float = 0.0  # wait between pieces of 64 KiB
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FileServer:
    """Address -> file; and what was asked for: (method, path, Range, Authorization)."""

    url: str
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, path: str, content: bytes, **behaviour) -> str:
        self.files[path] = Served(content, **behaviour)
        return self.url + path

    def add_hub_file(self, repository: str, name: str, content: bytes, **behaviour) -> None:
        """A large file as the Hugging Face hub gives it: its etag is its sha256."""
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": "0" * 40}
        headers["X-Linked-Size"] = str(len(content))
        self.add(f"/datasets/{repository}/resolve/main/{name}", content, headers=headers, **behaviour)

    def ranges(self, path: str) -> list[str]:
        return [asked for method, found, asked, _ in self.requests if method == "GET" and found == path]


@contextmanager
def serve() -> Iterator[FileServer]:
    """A running server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def log_message(self, format, *arguments):
            pass

        def _answer(self, with_body: bool) -> None:
            path, asked = unquote(self.path), self.headers.get("Range", "")
            server.requests.append((self.command, path, asked, self.headers.get("Authorization", "")))
            served = server.files.get(path)
            if served is None or served.status:
                self._say(404 if served is None else served.status, 0, {} if served is None else served.headers)
            elif served.busy:
                served.busy -= 1
                self._say(503, 0, {"Retry-After": "3600"})
            else:
                self._give(served, asked, with_body)

        def _give(self, served: Served, asked: str, with_body: bool) -> None:
            found = None if served.ignores_range else re.fullmatch(r"bytes=(\d+)-.*", asked)
            start = int(found[1]) if found else 0
            total = len(served.content)
            if start >= total > 0:
                self._say(416, 0, {"Content-Range": f"bytes */{total}"})
                return
            if served.wrong_part and start:
                start -= 1
            headers = dict(served.headers)
            if found:
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self._say(206 if "Content-Range" in headers else 200, served.announced or total - start, headers)
            if with_body:
                self._send(served, start)

        def _send(self, served: Served, start: int) -> None:
            end = len(served.content)
            if served.break_after and served.breaks:
                served.breaks -= 1
                end = min(end, start + served.break_after)
            try:
                for position in range(start, end, 2**16):
                    self.wfile.write(served.content[position : min(position + 2**16, end)])
                    time.sleep(served.piece_s)
            except OSError:
                pass  # the client went away, or was killed
            self.close_connection = True

        def _say(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = FileServer(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
