"""An S3 server on this machine, in memory: what s3fs asks for, conditional writes included.

The protocol: docs.aws.amazon.com/AmazonS3/latest/API. It counts requests and can hold them up.
"""

import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import fsspec

from tests.loopback import serving

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Gate:
    """The server's memory, and what happens to each request before it is answered."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Requests by method and top folder, for example `PUT parts`."""
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.objects: dict[str, tuple[bytes, float]] = {}
        """Bytes and time of writing, by bucket/key."""
        self.lock = threading.Lock()


def _handler(gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _begin(self) -> tuple[str, dict[str, str]]:
            """(bucket/key, query) of the request."""
            parts = urlsplit(self.path)
            folder = re.search(r"(parts|shards|refused|stills|ledger|runs|manifest)", unquote(self.path))
            gate.counts[f"{self.command} {folder[1] if folder else '-'}"] += 1
            time.sleep(gate.delay_s())
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            return unquote(parts.path).strip("/"), query

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _error(self, status: int, code: str) -> None:
            body = b"" if self.command == "HEAD" else f"{_HEAD}<Error><Code>{code}</Code></Error>".encode()
            self._answer(status, body, Content_Type="application/xml")

        def do_PUT(self) -> None:
            name, _ = self._begin()
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with gate.lock:
                if self.headers.get("If-None-Match") == "*" and name in gate.objects:
                    return self._error(412, "PreconditionFailed")
                if "/" in name:
                    gate.objects[name] = (data, time.time())
            self._answer(200, ETag=_etag(data))

        def do_HEAD(self) -> None:
            name, _ = self._begin()
            if "/" not in name:
                return self._answer(200)
            if name not in gate.objects:
                return self._error(404, "NoSuchKey")
            data, at_s = gate.objects[name]
            self._answer(200, **_about(data, at_s), Content_Length=str(len(data)))

        def do_GET(self) -> None:
            name, query = self._begin()
            if "/" not in name:
                return self._list(name, query)
            if name not in gate.objects:
                return self._error(404, "NoSuchKey")
            data, at_s = gate.objects[name]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                return self._answer(200, data, **_about(data, at_s))
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            if first >= len(data):
                return self._error(416, "InvalidRange")
            part = data[first : last + 1]
            span = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
            self._answer(206, part, **_about(data, at_s), Content_Range=span)

        def do_DELETE(self) -> None:
            name, _ = self._begin()
            with gate.lock:
                gate.objects.pop(name, None)
            self._answer(204)

        def do_POST(self) -> None:
            """Delete many."""
            bucket, _ = self._begin()
            tree = ElementTree.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
            keys = [key.text or "" for key in tree.iter() if key.tag.endswith("Key")]
            with gate.lock:
                for key in keys:
                    gate.objects.pop(f"{bucket}/{key}", None)
            self._answer(200, f"{_HEAD}<DeleteResult {_SPACE}/>".encode(), Content_Type="application/xml")

        def _list(self, bucket: str, query: dict[str, str]) -> None:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            with gate.lock:
                names = sorted(name for name in gate.objects if name.startswith(f"{bucket}/{prefix}"))
                found = {name: gate.objects[name] for name in names}
            folders, lines = {}, []
            for name, (data, at_s) in found.items():
                key = name[len(bucket) + 1 :]
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders[prefix + rest.partition(delimiter)[0] + delimiter] = True
                    continue
                when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at_s))
                about = f"<Size>{len(data)}</Size><LastModified>{when}</LastModified>"
                lines.append(f"<Contents><Key>{quote(key)}</Key>{about}<ETag>{escape(_etag(data))}</ETag></Contents>")
            lines += [f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>" for name in folders]
            top = f"<Name>{bucket}</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            top += f"<KeyCount>{len(lines)}</KeyCount>"
            body = f"{_HEAD}<ListBucketResult {_SPACE}>{top}{''.join(lines)}</ListBucketResult>".encode()
            self._answer(200, body, Content_Type="application/xml")

    return Handler


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _about(data: bytes, at_s: float) -> dict[str, str]:
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(at_s))
    return {"ETag": _etag(data), "Last_Modified": when, "Accept_Ranges": "bytes"}


@contextmanager
def s3_server() -> Iterator[Gate]:
    """Makes s3://bucket a bucket of this server while the block runs."""
    gate = Gate()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # else bodies come in signed chunks
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    before = {name: os.environ.get(name) for name in (*settings, "AWS_ENDPOINT_URL")}
    with serving(_handler(gate)) as url:
        os.environ |= {**settings, "AWS_ENDPOINT_URL": url}
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        try:
            yield gate
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            fsspec.get_filesystem_class("s3").clear_instance_cache()
