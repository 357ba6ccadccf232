"""The package of the target `wasm` over HTTP, for the browsers of this machine alone."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

from rnn_export.errors import SourceError
from rnn_export.runtime.protocols import Artefacts, folder, target_row

LOOPBACK = "127.0.0.1"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
# What the page runs comes from the package, and nothing goes elsewhere.
POLICY = ("default-src 'self'", "img-src data:", "script-src 'self' 'wasm-unsafe-eval'", "frame-ancestors 'none'")
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def read_package(artefacts: Artefacts, precision: str | None = None) -> dict[str, bytes]:
    """The files of the package by name; raises BackendUnavailable where the bundle has none, or it may not run."""
    row = target_row(artefacts, "wasm", precision)
    place = f"{folder('wasm', row.precision)}/"
    return {path.removeprefix(place): artefacts.read(path) for path in row.files}


class PackageServer(ThreadingHTTPServer):
    """Serves `files` at `url`; port 0 takes a free one. Raises SourceError where the port cannot be had."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], port: int = 0) -> None:
        self.files = files
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            why = "is taken" if taken else f"cannot be served ({error})"
            raise SourceError(
                f"port {port} of {LOOPBACK} {why}: choose another, or 0 for a free one.", id="web-port-unusable"
            ) from error

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PackageServer
    server_version, sys_version = "rnn-export", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        # A name of somebody else's that leads here: a page of theirs would read what is served.
        if self.headers.get("Host", "").partition(":")[0] not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "this is served to this machine alone")
            return
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        if name not in self.server.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = self.server.files[name]
        self.send_response(HTTPStatus.OK)
        kind = TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **HEADERS}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Nothing: a terminal is for who started it."""
