"""Give memory back that is not needed but still held."""

import ctypes
import gc
from collections.abc import Callable
from typing import Any


def _finder() -> Callable[[int], Any]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda pad: 0


_trim = _finder()


def give_back() -> None:
    """Encoders and decoders lie in circles of objects, which Python collects by number, not by size; and glibc keeps
    what pictures of many sizes leave behind. Without this, an hour of video takes a gigabyte more than ten seconds.
    """
    gc.collect()
    _trim(0)
