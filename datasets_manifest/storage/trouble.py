"""What storage raises when it fails, in words. Remote file systems raise errors of many packages, not only OSError."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_REFUSED = (401, 403)
_GONE = (404, 410)
_SIGNS_OF_CREDENTIALS = (
    *("credential", "token", "forbidden", "unauthorized", "access denied", "accessdenied", "login"),
    "bad request",  # all that S3 says to HEAD with an expired token
)
_SIGNS_OF_CONNECTION = ("connect", "name or service not known", "name resolution")
_SLIPS_AND_BUGS = (AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)


class UnreadableError(OSError):
    """Storage failed or returned the wrong bytes; the data itself may be intact."""


@contextmanager
def storage_errors(place: str, doing: str = "read") -> Iterator[None]:
    """Errors of the storage at `place` (a path or URL) become UnreadableError: one sentence, and what to do.

    Put little more than calls of a file system into the block. doing: read or written. Passed on are ValueError, bugs,
    and errors that say that a name is of the wrong kind or, when reading, missing.
    """
    try:
        yield
    except (UnreadableError, FileExistsError, IsADirectoryError, NotADirectoryError, *_SLIPS_AND_BUGS):
        raise
    except Exception as error:
        if is_missing(error) and doing == "read":
            raise
        raise UnreadableError(storage_words(error, place, doing)) from error


def is_missing(error: BaseException) -> bool:
    """Whether the storage says that there is no such file or folder.

    FileNotFoundError alone does not: fsspec's http raises it for every failure, with the failure as its cause.
    """
    cause = error.__cause__
    failed = isinstance(cause, TimeoutError) or (
        cause is not None and type(cause).__module__.startswith("aiohttp") and _status(cause) not in _GONE
    )
    return isinstance(error, FileNotFoundError) and not failed


def storage_words(raised: BaseException, place: str, doing: str = "read") -> str:
    """A sentence on an error of the storage, and what to do. place: a path or URL. doing: read or written."""
    is_disguised = isinstance(raised, FileNotFoundError) and not is_missing(raised)
    error: Any = raised.__cause__ if is_disguised else raised
    failure = f"{place} cannot be {doing}"
    if "://" not in place:
        return f"{failure}: {getattr(error, 'strerror', None) or error or repr(error)}"
    text = f"{error.status} {error.message}" if hasattr(error, "status") and hasattr(error, "message") else str(error)
    detail = " ".join(text.split())[:300].rstrip(".") or type(error).__name__
    signs = f"{type(error).__name__} {detail}".lower()
    if isinstance(error, ImportError):
        advice = "A package for this kind of URL is missing"
    elif is_missing(error):
        advice = "Check the names of the bucket and the folder"
    elif isinstance(error, PermissionError) or _status(error) in _REFUSED or _any(_SIGNS_OF_CREDENTIALS, signs):
        advice = "Check that your credentials are set, have not expired and allow it, then try again"
    elif isinstance(error, ConnectionError) or _any(_SIGNS_OF_CONNECTION, signs):
        advice = "Check the address and the network, then try again"
    else:
        advice = "Try again later; if it stays so, check the address and your credentials"
    return f"{failure}: {detail}. {advice}"


def _status(error: BaseException) -> int | None:
    """The HTTP status in errors of aiohttp, gcsfs and botocore."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "status", None) or getattr(error, "code", None)


def _any(signs: tuple[str, ...], text: str) -> bool:
    return any(sign in text for sign in signs)
