"""A web server on this machine, with the headers of huggingface.co and with the faults that a test asks for."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from threading import Event

from tests.loopback import serving

REVISION = "0123456789abcdef0123456789abcdef01234567"
"""Commit that every page claims to come from."""


@dataclass
class Page:
    """What the server answers for one path."""

    content: bytes = b""
    status: int = 200
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    hang_after: int | None = None
    """Send nothing more after so many bytes of the body, until the server stops."""


@dataclass
class WebServer:
    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, Message]] = field(default_factory=list)
    """Path and headers of each GET, in order."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Serves `WebServer.pages` on 127.0.0.1 until the block ends."""
    stopping = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_page(with_body=False)

        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers))
            self.send_page(with_body=True)

        def send_page(self, with_body: bool) -> None:
            page = server.pages.get(self.path, Page(status=404))
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            body = page.content[start:]
            self.send_response(206 if start else page.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{hashlib.sha256(page.content).hexdigest()}"')
            self.end_headers()
            if not with_body:
                return
            with suppress(ConnectionError):  # the client has seen enough
                self.wfile.write(body[: page.cut_after if page.hang_after is None else page.hang_after])
            if page.hang_after is not None:
                stopping.wait()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        server = WebServer(url)
        try:
            yield server
        finally:
            stopping.set()
