"""What stands before Gradio: who is asking, what may be asked for, and whose files they get.

Gradio gives any file that anyone sent to whoever knows its path. Here each browser has a secret cookie, and gets what
it sent and what was made of that; every other path, and every route of Gradio that the page does not need, is refused.
"""

import json
import mimetypes
import re
import secrets
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lipforge.pipeline.app.jobs import Job
from lipforge.pipeline.app.shelf import Shelf

COOKIE = "lipforge_user"
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_API = "/gradio_api"
_OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|pwa_icon)/.*|/pwa_icon"
    rf"|{_API}/(theme\.css|app_id|startup-events|login_check|heartbeat/[\w-]+|upload_progress|queue/data|cancel|reset)/?"
)
_UPLOAD, _JOIN, _FILE = f"{_API}/upload", f"{_API}/queue/join", f"{_API}/file="
_MINE = re.compile(r"/mine/([\w-]+)/(original|result|faces|report|compare)")
_MOST_JOIN_BYTES = 1 << 20
_RULES = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
"""The browser asks no other machine for anything."""


def user_of(headers: Any) -> str:
    """The cookie's secret, or an empty string."""
    cookies = SimpleCookie()
    for part in headers.get("cookie", "").split(";"):
        if part.strip().startswith(f"{COOKIE}="):
            cookies.load(part.strip())
    found = cookies[COOKIE].value if COOKIE in cookies else ""
    return found if _SECRET.fullmatch(found) else ""


class Gate:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        shelf: Shelf,
        find_job: Callable[[str, str], Job | None],
        compare: Callable[[Job], str],
    ) -> None:
        self._app, self._shelf, self._find_job, self._compare = app, shelf, find_job, compare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        user = user_of(request.headers)
        if not user and scope["path"] == "/":
            user = secrets.token_urlsafe(32)
            send = _with_cookie(send, user, request.url.scheme == "https")
        send = _with_rules(send)
        answer = await self._answer(request, user)
        if answer is not None:
            await answer(scope, receive, send)
        elif scope["path"] == _UPLOAD and scope["method"] == "POST":
            await self._app(scope, receive, self._noting_uploads(send, user))
        elif scope["path"].rstrip("/") == _JOIN:
            await self._app(scope, _again(await request.body(), receive), send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, request: Request, user: str) -> Response | None:
        """What is answered here; None: Gradio answers."""
        path = request.scope["path"]
        if _OPEN.fullmatch(path):
            return None
        if not user:
            return _refusal(
                "Open the page first: it gives your browser the cookie that your files are kept under.", 403
            )
        if path == _UPLOAD:
            return None
        if path.rstrip("/") == _JOIN:
            return await self._check_join(request, user)
        if path.startswith(_FILE):
            wanted = unquote(path.removeprefix(_FILE))
            return None if self._shelf.owns(user, wanted) else _refusal("There is no such file of yours.", 403)
        if mine := _MINE.fullmatch(path):
            job = self._find_job(user, mine[1])
            return (
                _refusal("There is no such file of yours.", 404) if job is None else self._give(job, mine[2], request)
            )
        return _refusal("There is no such page.", 404)

    async def _check_join(self, request: Request, user: str) -> Response | None:
        """Files that a call names must be the user's own: Gradio would take any that anyone sent, or fetch a URL."""
        if int(request.headers.get("content-length", "0")) > _MOST_JOIN_BYTES:
            return _refusal("The request is too large.", 413)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_JOIN_BYTES:  # a length need not be given, nor be true
                return _refusal("The request is too large.", 413)
        request._body = body  # for whoever reads it next
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _refusal("The request is not JSON that can be read.", 400)
        if all(self._shelf.owns(user, path) for path in _paths_in(asked)):
            return None
        return _refusal("There is no such file of yours.", 403)

    def _give(self, job: Job, what: str, request: Request) -> Response:
        if what == "compare":
            return HTMLResponse(self._compare(job))
        path: Path | None = {
            "original": job.video,
            "result": Path(job.result.out) if job.result else None,
            "report": Path(job.result.report) if job.result else None,
            "faces": job.picture,
        }[what]
        if path is None or not path.is_file():
            return _refusal("There is no such file of yours.", 404)
        kind = mimetypes.guess_type(path.name)[0] or ""
        if not kind.startswith(("video/", "image/")) and kind != "application/json":
            kind = "application/octet-stream"
        how = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(path, media_type=kind, filename=path.name, content_disposition_type=how)

    def _noting_uploads(self, send: Send, user: str) -> Send:
        """Gradio answers with the paths of what was sent: they are this user's."""
        status, body = 0, b""

        async def noting(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and status == 200:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    self._shelf.take(user, json.loads(body))
            await send(message)

        return noting


def _paths_in(asked: Any) -> list[str]:
    """Every file that a call names, at any depth."""
    if isinstance(asked, dict):
        found = [value for name, value in asked.items() if name == "path" and isinstance(value, str)]
        return found + [path for value in asked.values() for path in _paths_in(value)]
    if isinstance(asked, list):
        return [path for value in asked for path in _paths_in(value)]
    return []


def _again(body: bytes, then: Receive) -> Receive:
    """A body that was read, to be read once more."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await then()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _refusal(words: str, status: int) -> Response:
    return PlainTextResponse(words, status)


def _with_cookie(send: Send, user: str, secure: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            value = f"{COOKIE}={user}; HttpOnly; SameSite=Lax; Path=/" + ("; Secure" if secure else "")
            MutableHeaders(scope=message).append("set-cookie", value)
        await send(message)

    return sending


def _with_rules(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = _RULES
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
        await send(message)

    return sending
