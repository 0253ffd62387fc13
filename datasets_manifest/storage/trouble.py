"""What storage raises when it fails, in words. Remote file systems raise errors of many packages, not only OSError."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""System errors for no space, a limit, and no permission."""
TEMPORARY_PREFIX = ".tmp-"
"""Of the names of files that are being written."""
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


def system_words(error: OSError) -> str:
    """What the system refused, of a local file or folder, and why. Of our own errors: their text."""
    path = error.filename
    if error.errno is None:
        return str(error)
    if not isinstance(path, str):
        return error.strerror or str(error)
    if os.path.isfile(path) and error.errno in (errno.EACCES, errno.EPERM) and not os.access(path, os.R_OK):
        return f"{path} cannot be read: {_rights(path)}"
    is_temporary = os.path.basename(path).startswith(TEMPORARY_PREFIX)
    if error.errno == errno.ENOENT and not is_temporary:
        return f"{path}: {error.strerror}"
    why = why_not_made(path, error)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return why
    return f"{path}: {why}" if why == error.strerror else f"cannot write: {why}"


def why_not_made(path: str, error: OSError) -> str:
    """Why a local file or folder at `path` could not be made: what is in the way, and where."""
    above = path = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    folder = above if os.path.isdir(above) else os.path.dirname(above)
    if folder != above and (above != path or error.errno == errno.EEXIST):
        return f"{above} is in the way: a folder is needed there"
    if error.errno == errno.EROFS:
        return f"the disk of {folder} can only be read"
    if error.errno in (errno.EACCES, errno.EPERM) and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return f"{folder} may not be changed: {_rights(folder)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT):
        return f"{folder} takes no new files or folders"
    return error.strerror or str(error)


def _rights(path: str) -> str:
    about = os.stat(path)
    return (
        f"{_user(about.st_uid)} owns it, its mode is {stat.filemode(about.st_mode)}, and you are {_user(os.geteuid())}"
    )


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


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
