"""Where the samples of a shard lie, by its own headers."""

import tarfile
from typing import IO


def find_samples(data: IO[bytes]) -> dict[str, tuple[int, int]]:
    """(offset, size) of each sample in a shard, by key. Reads headers only.

    Raises tarfile.ReadError for a damaged tar.
    """
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=data, mode="r:") as tar:
        for member in tar:
            key = member.name.partition(".")[0]
            start = found[key][0] if key in found else member.offset
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            found[key] = (start, end - start)
    return found
