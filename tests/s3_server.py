"""An S3 server on this machine: moto's, behind a gate that counts requests and can hold them up."""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Gate:
    """What happens to each request before the server gets it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Requests by method and top folder, for example `PUT parts`."""
        self.delay_s: Callable[[], float] = lambda: 0.0

    def passing(self, app: Any) -> Any:
        def gated(environ: dict[str, Any], start_response: Any) -> Any:
            path = environ["PATH_INFO"] + "?" + environ["QUERY_STRING"]
            folder = re.search(r"(parts|shards|refused|stills|ledger|runs|manifest)", path)
            self.counts[f"{environ['REQUEST_METHOD']} {folder[1] if folder else '-'}"] += 1
            time.sleep(self.delay_s())
            return app(environ, start_response)

        return gated


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[Gate]:
    """Makes s3://bucket a bucket of this server while the block runs."""
    gate = Gate()
    app = gate.passing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
    url = f"http://127.0.0.1:{server.server_port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": url}
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        fsspec.filesystem("s3").mkdir("bucket")
        yield gate
    finally:
        server.shutdown()
        thread.join()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        fsspec.get_filesystem_class("s3").clear_instance_cache()
