"""A web server on this machine whose pages behave as badly as a test wants."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.loopback import serving


@dataclass
class Page:
    """What the server does when asked for one path."""

    content: bytes = b""
    status: int = 200
    ranges: bool = True
    """Whether parts of the content can be asked for."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body, once."""
    claimed_size: int | None = None
    """Content-Length, if it is not the truth; -1: none."""
    redirect_to: str | None = None


@dataclass
class WebServer:
    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request, in order."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Serves `WebServer.pages` on 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            page = server.pages.get(self.path, Page(status=404))
            if page.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", page.redirect_to)
                self.end_headers()
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and page.ranges else 0  # type: ignore[index]
            body = page.content[start:]
            self.send_response(206 if start else page.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
            size = len(body) if page.claimed_size is None else page.claimed_size
            if size >= 0:
                self.send_header("Content-Length", str(size))
            self.end_headers()
            with suppress(ConnectionError):  # the reader has seen enough
                self.wfile.write(body[: page.cut_after])
            page.cut_after = None
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        server = WebServer(url)
        yield server
