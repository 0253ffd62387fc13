"""An app to test: it serves from this process, and its model needs no network."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx

from lipforge.pipeline.app.jobs import Jobs
from lipforge.pipeline.app.serve import Running, start
from lipforge.pipeline.infer import run
from lipforge.pipeline.infer.protocols import Cancelled, Progress
from lipforge.pipeline.infer.request import IDENTITY


def make_or_wait(video: str, audio: str, out: str, config: Any, listen: Any, stopped: Any, **more: Any) -> Any:
    """The engine; a video whose name begins with `slow` is worked on until it is stopped."""
    if not Path(video).name.startswith("slow"):
        return run.infer(video, audio, out, config, listen, stopped, **more)
    while not stopped():
        listen(Progress("2 of 3: draw", 3.0, 10.0, 42.0))
        time.sleep(0.05)
    raise Cancelled


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Running]:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    running = start(folder, IDENTITY, port=port, jobs=Jobs(make=make_or_wait), **settings)
    try:
        yield running
    finally:
        running.close()


class Browser:
    """One user, without a browser: a cookie and calls by hand."""

    def __init__(self, running: Running) -> None:
        self.http = httpx.Client(base_url=running.url, timeout=20)
        self.http.get("/")

    def send(self, name: str, content: bytes) -> str:
        """Upload a file; returns its path on the server."""
        return self.http.post("/gradio_api/upload", files={"files": (name, content)}).json()[0]

    def get_as_written(self, path: str) -> tuple[int, bytes]:
        """(status, body) of a path that nothing makes tidy on its way."""
        asked = HTTPConnection(self.http.base_url.host, self.http.base_url.port or 80, timeout=20)
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        asked.request("GET", path, headers={"cookie": cookies})
        answer = asked.getresponse()
        status, body = answer.status, answer.read()
        asked.close()
        return status, body

    def file(self, path: object) -> tuple[int, bytes]:
        return self.get_as_written(f"/gradio_api/file={path}")
