"""One clip as consecutive members of a tar: what a shard is made of.

A sample's bytes depend on its content alone, so a shard is its samples one after another, and a part holds the same bytes.
"""

import io
import tarfile
from typing import IO

END_OF_TAR = bytes(1024)


def sample_bytes(key: str, members: dict[str, bytes]) -> bytes:
    """Tar blocks of KEY.suffix members, in the given order, without the end of the archive. No dates, no owners."""
    buffer = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
            size += tarfile.BLOCKSIZE + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return buffer.getvalue()[:size]


def find_samples(data: IO[bytes]) -> dict[str, tuple[int, int]]:
    """(offset, size) of each sample in a shard, by key. Reads headers only; raises tarfile.ReadError for a damaged tar."""
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=data, mode="r:") as tar:
        for member in tar:
            key = member.name.partition(".")[0]
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            start = found[key][0] if key in found else member.offset
            found[key] = (start, end - start)
    return found
