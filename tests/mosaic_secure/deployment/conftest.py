from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time

import pytest

from mosaic_secure.config import load_config
from mosaic_secure.deployment.founding import found

SERVER = "127.0.0.1:8443"


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation of three clients with a kit for each party; do not change it."""
    place = tmp_path_factory.mktemp("founded") / "federation"
    found(place, load_config("digits", {"clients.count": 3}), SERVER)
    return place


@pytest.fixture
def federation(founded: Path, tmp_path: Path) -> Path:
    """A copy of it, modes and all, that a test may change."""
    return Path(shutil.copytree(founded, tmp_path / "federation"))


@contextmanager
def serve(server: HTTPServer, folder: Path) -> Iterator[None]:
    """HTTPS with the certificate and key under `folder`, for as long as the block runs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock(BaseHTTPRequestHandler):
    """Answers with nothing but the time, by a clock that is `ahead` seconds off; None tells no time."""

    ahead: float | None = 0.0

    def do_HEAD(self) -> None:
        self.send_response_only(404)
        if self.ahead is not None:
            self.send_header("Date", formatdate(time() + self.ahead, usegmt=True))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def open_server() -> Iterator[Callable[..., HTTPServer]]:
    """A function that binds a free port of this machine; the clock of what answers there can be set."""
    opened: list[HTTPServer] = []

    def bind(ahead: float | None = 0.0, host: str = "127.0.0.1") -> HTTPServer:
        handler = type("Handler", (Clock,), {"ahead": ahead})
        server = HTTPServer((host, 0), handler)
        server.handle_error = lambda *_: None  # a client that trusts another CA hangs up: that is the test
        opened.append(server)
        return server

    yield bind
    for server in opened:
        server.server_close()
