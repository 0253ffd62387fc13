"""A sample: one clip as consecutive members of a tar, written, found, read and verified.

A sample's bytes depend on its content alone: a shard is samples one after another, and a part holds the same bytes.
KEY.json has the hashes of the media, so a reader can verify the sample.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import fsspec

from lipforge.datasets_manifest.geometry import ClipGeometry, decode_geometry
from lipforge.datasets_manifest.storage.files import open_place, remote_errors, to_json

END_OF_TAR = bytes(1024)
MEDIA = ("mp4", "flac")
GEOMETRY = "npz"
"""Where the frames lie in the source (geometry.py). Samples of earlier versions have none."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A clip as it is stored."""

    mp4: bytes
    flac: bytes
    about: dict[str, Any]
    """KEY.json: origin, measures, hashes."""
    geometry: ClipGeometry | None
    """None in a sample of an earlier version."""


def read_sample(dataset: str, row: Mapping[str, Any]) -> Sample:
    """The sample of a row of the manifest, or of a selection: its `key`, `shard`, `sample_offset`, `sample_size`.

    dataset: folder or fsspec URL (`dataset` of a selection's row). Reads only these bytes, and verifies them.
    Raises OSError when the shard cannot be read, ValueError when a clip is in no shard, or damaged.
    """
    if row["shard"] is None:
        raise ValueError(f"clip {row['key']} is in no shard: only kept clips are")
    fs, root = open_place(dataset)
    place = f"{root}/{row['shard']}"
    members = read_clip_at(fs, place, row["sample_offset"], row["sample_size"], row["key"])
    about = json.loads(members["json"])
    geometry = decode_geometry(members[GEOMETRY], about.get("num_frames")) if GEOMETRY in members else None
    return Sample(members["mp4"], members["flac"], about, geometry)


def clip_members(mp4: bytes, flac: bytes, about: Mapping[str, Any], npz: bytes | None = None) -> dict[str, bytes]:
    """The members of a clip by suffix. about: its JSON without the hashes of the others; `key` is the clip's."""
    media = dict(zip(MEDIA, (mp4, flac), strict=True))
    geometry = {} if npz is None else {GEOMETRY: npz}
    hashes = {suffix: _hash(data) for suffix, data in (media | geometry).items()}
    return {**media, "json": to_json({**about, "sha256": hashes}), **geometry}


def read_clip(data: bytes, size: int, key: str) -> dict[str, bytes]:
    """The members of a clip by suffix, verified: they are what `clip_members` made.

    data: the bytes read, `size` if the shard is whole. Raises ValueError, which says what is wrong.
    """
    if len(data) != size:
        raise ValueError(f"the shard ends after {len(data)} of its {size} bytes")
    members, end = {}, 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                name, _, suffix = member.name.partition(".")
                if name != key:
                    raise ValueError(f"{member.name} is there instead")
                is_plain = member.type == tarfile.REGTYPE and not member.issparse() and member.size <= size
                content = tar.extractfile(member) if is_plain else None
                if content is None or suffix in members:
                    raise ValueError(f"{member.name} is no plain file, or is there twice")
                members[suffix] = content.read()
                end = _end_of(member)
    except (tarfile.TarError, OverflowError, RecursionError) as error:  # lengths of twenty digits, chains of headers
        raise ValueError(f"not a tar: {error}") from error
    if missing := {*MEDIA, "json"} - members.keys():
        raise ValueError(f"no {' and no '.join(sorted(missing))} in it")
    if end != size:
        raise ValueError(f"its members end after {end} of its {size} bytes")
    _check_hashes(members, key)
    return members


def read_clip_at(fs: fsspec.AbstractFileSystem, path: str, offset: int, size: int, key: str) -> dict[str, bytes]:
    """read_clip at `sample_offset` and `sample_size` of the manifest. Reads only these bytes of the tar.

    Raises OSError when the tar cannot be read, ValueError as read_clip.
    """
    with remote_errors(str(fs.unstrip_protocol(path))):
        data = cast(bytes, fs.cat_file(path, start=offset, end=offset + size))  # str is for text mode
    return read_clip(data, size, key)


def read_still_at(fs: fsspec.AbstractFileSystem, path: str, offset: int, size: int, key: str) -> bytes:
    """The JPEG of a clip without media, from its place in a tar. Raises OSError, ValueError as `read_clip_at`."""
    with remote_errors(str(fs.unstrip_protocol(path))):
        data = cast(bytes, fs.cat_file(path, start=offset, end=offset + size))
    try:
        with tarfile.open(fileobj=io.BytesIO(data + END_OF_TAR), mode="r:") as tar:
            stills = [tar.extractfile(member) for member in tar if member.isreg() and member.name == f"{key}.jpg"]
            if not stills or stills[0] is None:
                raise ValueError(f"there is no {key}.jpg")
            return stills[0].read()
    except tarfile.TarError as error:
        raise ValueError(f"not a tar: {error}") from error


def _check_hashes(members: Mapping[str, bytes], key: str) -> None:
    try:
        about = json.loads(members["json"])
        hashed = {*MEDIA, *({GEOMETRY} & (members.keys() | about["sha256"].keys()))}
        named, hashes = about["key"], {suffix: about["sha256"][suffix] for suffix in sorted(hashed)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            "its JSON is damaged, or written by an older lipforge, without hashes: then prepare the dataset again"
        ) from error
    if named != key:
        raise ValueError(f"its JSON is that of clip {named}")
    for suffix, expected in hashes.items():
        if suffix not in members:
            raise ValueError(f"no {suffix} in it, though its JSON has the hash of one")
        if _hash(members[suffix]) != expected:
            raise ValueError(f"its {suffix} and the hash in its JSON differ")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _end_of(member: tarfile.TarInfo) -> int:
    """First byte after a member's blocks."""
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def sample_bytes(key: str, members: dict[str, bytes]) -> bytes:
    """Tar blocks of KEY.suffix members, in the given order, without the end-of-archive blocks. No dates, no owners."""
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
