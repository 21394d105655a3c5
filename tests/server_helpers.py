"""Servers that fail on request: a proxy before a server of S3, and a web server of a folder."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ERRORS = {
    "denied": (403, "AccessDenied"),
    "missing": (404, "NoSuchKey"),
    "broken": (500, "InternalError"),
    "busy": (503, "SlowDown"),
}
FAULTS = (*ERRORS, "cut", "stall", "slow")


@dataclass
class Faults:
    """What a server does wrong.

    Attributes:
        kind: one of `FAULTS`, or None.
        method: of the requests that it happens to, and HEAD of a file stays well.
        part: of their path.
        left: how often it happens; -1 for ever.
        happened: how often it did.
    """

    kind: str | None = None
    method: str = "GET"
    part: str = ""
    left: int = -1
    happened: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def set(self, kind: str | None, part: str = "", left: int = -1, method: str = "GET") -> None:
        with self.lock:
            self.kind, self.part, self.left, self.method = kind, part, left, method
            self.happened = 0

    def take(self, method: str, path: str) -> str | None:
        """Returns what is wrong with this answer."""
        with self.lock:
            if self.kind is None or method != self.method or self.part not in path or not self.left:
                return None
            self.left -= 1
            self.happened += 1
            return self.kind


class _Failing(BaseHTTPRequestHandler):
    """Fails as it is told, and else hands on what `answer` gives."""

    faults: Faults
    faults_stop: threading.Event
    protocol_version = "HTTP/1.1"

    def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        raise NotImplementedError

    def handle_any(self) -> None:
        status, headers, body = self.answer()
        fault = self.faults.take(self.command, self.path)
        if fault == "stall":
            self.faults_stop.wait(20)
            self.close_connection = True
            return
        if fault == "slow":
            self.faults_stop.wait(0.2)
        if fault in ERRORS:
            status, code = ERRORS[fault]
            body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
            headers = [("Content-Type", "application/xml")]
            headers += [("Retry-After", "0.2")] if fault == "busy" else []
        self.send_response_only(status)
        length = next((v for n, v in headers if n.lower() == "content-length"), len(body))
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if fault in ERRORS else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        self.close_connection = self.close_connection or fault == "cut"

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def _serving(handler: type[_Failing]) -> Iterator[str]:
    handler.faults_stop = threading.Event()
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        handler.faults_stop.set()
        server.shutdown()
        server.server_close()


@contextmanager
def failing_proxy(host: str, port: int, faults: Faults) -> Iterator[str]:
    """Serves what another server answers; gives its URL."""

    class Proxy(_Failing):
        def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            other = http.client.HTTPConnection(host, port, timeout=30)
            other.request(self.command, self.path, body, dict(self.headers))
            answer = other.getresponse()
            data = answer.read()
            other.close()
            return answer.status, answer.getheaders(), data

    Proxy.faults = faults
    with _serving(Proxy) as url:
        yield url


@contextmanager
def failing_folder(folder: Path, faults: Faults) -> Iterator[str]:
    """Serves the files of a folder, without lists of them and without ranges; gives its URL."""

    class Folder(_Failing, SimpleHTTPRequestHandler):
        def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
            path = folder / self.path.lstrip("/")
            return (200, [], path.read_bytes()) if path.is_file() else (404, [], b"")

        do_GET = do_HEAD = _Failing.handle_any  # noqa: N815

    Folder.faults = faults
    with _serving(Folder) as url:
        yield url
