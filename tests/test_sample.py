"""A sample is a few plain tar members with hashes of its media, and nothing else is read as one."""

import io
import tarfile
from typing import Any

import numpy as np
import pytest

from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, read_clip, sample_bytes
from lipforge.datasets_manifest.storage.files import to_json
from tests.tar_index import find_samples

KEY = "0a1b"
MP4 = bytes(range(256)) * 5
FLAC = MP4[::-1][:777]


def make_members(seed: int, size: int = 3000) -> dict[str, bytes]:
    noise = np.random.default_rng(seed).bytes(size)
    return clip_members(noise, noise[::-1][:777], {"seed": seed})


def test_sample_bytes_are_plain_tar_members_without_dates_or_owners() -> None:
    data = sample_bytes("0a", make_members(1))
    assert data == sample_bytes("0a", make_members(1))
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data + END_OF_TAR)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == ["0a.mp4", "0a.flac", "0a.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        for member in members:
            file = tar.extractfile(member)
            assert file is not None and file.read() == make_members(1)[member.name.partition(".")[2]]


def test_samples_one_after_another_are_a_shard_and_are_found_in_it() -> None:
    samples = {
        f"{n:032x}": sample_bytes(f"{n:032x}", make_members(n, size)) for n, size in enumerate([0, 511, 512, 513, 9])
    }
    shard = b"".join(samples.values()) + END_OF_TAR
    found = find_samples(io.BytesIO(shard))
    assert list(found) == list(samples)
    for key, (offset, size) in found.items():
        assert shard[offset : offset + size] == samples[key]


# --- reading one


def clip_bytes(key: str = KEY, about: dict[str, Any] | None = None, **other: bytes) -> bytes:
    return sample_bytes(key, {**clip_members(MP4, FLAC, about or {"key": key, "language": "hi"}), **other})


def test_a_clip_is_read_as_it_was_written() -> None:
    data = clip_bytes()
    members = read_clip(data, len(data), KEY)
    assert members == clip_members(MP4, FLAC, {"key": KEY, "language": "hi"})
    assert b'"language":"hi"' in members["json"]


def test_one_wrong_byte_of_the_media_is_seen() -> None:
    whole = clip_bytes()
    for name, content in (("mp4", MP4), ("flac", FLAC)):
        first = whole.index(content)
        for place in (first, first + len(content) // 2, first + len(content) - 1):
            data = bytearray(whole)
            data[place] ^= 1
            with pytest.raises(ValueError, match=f"its {name} and the hash"):
                read_clip(bytes(data), len(data), KEY)


def test_geometry_is_hashed_like_the_media() -> None:
    npz = MP4[300:900]
    members = clip_members(MP4, FLAC, {"key": KEY}, npz)
    whole = sample_bytes(KEY, members)
    assert list(members) == ["mp4", "flac", "json", "npz"] and read_clip(whole, len(whole), KEY) == members
    damaged = sample_bytes(KEY, {**members, "npz": npz[::-1]})
    with pytest.raises(ValueError, match="its npz and the hash"):
        read_clip(damaged, len(damaged), KEY)
    without = sample_bytes(KEY, {name: data for name, data in members.items() if name != "npz"})
    with pytest.raises(ValueError, match="no npz in it"):
        read_clip(without, len(without), KEY)
    unknown = clip_bytes(npz=npz)
    with pytest.raises(ValueError, match="its JSON is damaged"):
        read_clip(unknown, len(unknown), KEY)


def with_member(kind: bytes) -> bytes:
    """A clip with one more member, which is no file."""
    info = tarfile.TarInfo(f"{KEY}.more")
    info.type, info.linkname = kind, "nowhere"
    return clip_bytes() + info.tobuf()


def chained_headers(count: int) -> bytes:
    """Extended headers without content, of which each is about the next."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    return info.tobuf() * count


def with_header(name: str, value: str) -> bytes:
    """A clip with an extended header (pax) in front."""
    info = tarfile.TarInfo(f"{KEY}.mp4")
    info.pax_headers = {name: value}
    return info.tobuf(tarfile.PAX_FORMAT) + clip_bytes()


def test_what_is_no_such_clip_says_so() -> None:
    whole = clip_bytes()
    cases: list[tuple[bytes, str]] = [
        (whole[:-512], "the shard ends after"),
        (bytes(len(whole)), "no flac and no json and no mp4"),
        (b"x" * len(whole), "not a tar"),
        (clip_bytes("ffff"), "is there instead"),
        (clip_bytes(about={"key": "ffff"}), "that of clip ffff"),
        (clip_bytes(json=b"[not JSON"), "prepare the dataset again"),
        (clip_bytes(json=to_json({"key": KEY})), "prepare the dataset again"),
        (clip_bytes(json=to_json({"key": KEY, "sha256": {"mp4": 1}})), "prepare the dataset again"),
        (clip_bytes(json=b"[1]"), "prepare the dataset again"),
        (sample_bytes(KEY, {"mp4": MP4, "json": b"{}"}), "no flac"),
        (whole + clip_bytes("ffff"), "is there instead"),
        (whole + END_OF_TAR, "its members end after"),
        (clip_bytes(json=b"[" * 200_000), "prepare the dataset again"),
        (with_member(tarfile.SYMTYPE), "is no plain file"),
        (with_member(tarfile.LNKTYPE), "is no plain file"),
        (with_member(tarfile.DIRTYPE), "is no plain file"),
        (whole + sample_bytes(KEY, {"flac": FLAC}), "there twice"),
        (with_header("size", "9" * 20), "is no plain file"),
        (with_header("GNU.sparse.size", str(10**12)), "is no plain file"),
        (chained_headers(2000) + clip_bytes(), "not a tar"),
    ]
    for data, words in cases:
        size = len(whole) if words.startswith("the shard") else len(data)
        with pytest.raises(ValueError, match=words):
            read_clip(data, size, KEY)
