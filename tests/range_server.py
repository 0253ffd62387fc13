"""A web server on this machine that sends byte ranges of the files in a folder, and counts them."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import serving


@dataclass
class RangeServer:
    url: str
    requests: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, first byte and end of each request that was answered."""
    knows_ranges: bool = True
    failures_left: int = 0
    """Requests to answer with status 503 before all goes well."""
    spoiled: list[str] = field(default_factory=list)
    """How the next ranges are answered wrongly, with status 206: `zeros` of the right length, or a `short` answer."""

    @property
    def num_bytes(self) -> int:
        return sum(end - start for _, start, end in self.requests)


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    """Serves a folder on 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                fails = server.failures_left > 0
                server.failures_left -= fails
            path = folder / self.path.lstrip("/")
            if fails or not path.is_file():
                self.answer(503 if fails else 404, b"")
                return
            content = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted is None or not server.knows_ranges:
                self.answer(200, content)
                return
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
            if start >= len(content):
                self.answer(416, b"")
                return
            with lock:
                server.requests.append((self.path, start, end))
                spoil = server.spoiled.pop(0) if server.spoiled else ""
            body = content[start:end]
            if spoil:
                body = bytes(len(body)) if spoil == "zeros" else body[: len(body) // 2]
            self.answer(206, body)

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    lock = threading.Lock()
    with serving(Handler) as url:
        server = RangeServer(url)
        yield server
