"""Keep third-party code off the terminal while it starts."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def off_terminal(*descriptors: int) -> Iterator[None]:
    """Redirect standard file descriptors (0, 1, 2) to /dev/null while the block runs."""
    saved = [os.dup(descriptor) for descriptor in descriptors]
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in zip(descriptors, saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)
