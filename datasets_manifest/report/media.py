"""Pictures and players of the page: inside it while they are small, else files in a folder beside it."""

import base64
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import av.error
import fsspec
from fsspec.implementations.local import LocalFileSystem

from lipforge.datasets_manifest.display import visible
from lipforge.datasets_manifest.geometry import GeometryError, decode_geometry
from lipforge.datasets_manifest.report.overlay import pack_overlay
from lipforge.datasets_manifest.sample import GEOMETRY, read_clip_at, read_still_at
from lipforge.datasets_manifest.sample_media import playable_mp4, poster_and_time
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.files import publish, remote_errors

log = logging.getLogger(__name__)

MAX_INLINE_BYTES = 2_000_000
"""Of samples whose media are built into the page."""
MAX_MEDIA_BYTES = 150_000_000
"""Of samples whose media are copied for a page."""
MAX_OVERLAY_BYTES = 3_000_000
"""Of geometry, which is built into the page in any case: a script may not read files beside it."""
_READS_AT_ONCE = 8
_VERSION = 1
"""Of what is made of a sample; another one gives its files other names."""


class Shelf(Protocol):
    """Where files of a page go."""

    def put(self, name: str, media_type: str, data: bytes) -> str:
        """Returns what the page says to find it again."""
        ...


class InPage:
    def put(self, name: str, media_type: str, data: bytes) -> str:
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


class Folder:
    """Files named by what they are made of, so what is there already is right."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str) -> None:
        self._fs, self._path = fs, path
        fs.invalidate_cache(path)
        with remote_errors(self._place):
            there = fs.find(path) if fs.exists(path) else []
        self._there = {name.rsplit("/", 1)[-1] for name in there}
        self._named: set[str] = set()

    @property
    def _place(self) -> str:
        return str(self._fs.unstrip_protocol(self._path))

    def put(self, name: str, media_type: str, data: bytes) -> str:
        self._named.add(name)
        if name not in self._there:
            with remote_errors(self._place, "written"):
                if isinstance(self._fs, LocalFileSystem):
                    os.makedirs(self._path, exist_ok=True)
                publish(self._fs, f"{self._path}/{name}", data)
        return name

    def tidy(self) -> None:
        """Delete our files that earlier pages named and this one does not."""
        with remote_errors(self._place, "written"):
            for name in sorted(self._there - self._named):
                stem, _, suffix = name.rpartition(".")
                if len(stem) == 32 and set(stem) <= set("0123456789abcdef") and suffix in ("mp4", "jpg"):
                    self._fs.rm_file(f"{self._path}/{name}")


def is_small(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the media of these clips are built into the page."""
    return sum(row["sample_size"] or 0 for row in rows) <= MAX_INLINE_BYTES


class MediaMaker:
    """Makes what the page shows of clips."""

    def __init__(self, dataset_dir: str, fs: fsspec.AbstractFileSystem, root: str, shelf: Shelf) -> None:
        self._dataset_dir, self._fs, self._root, self._shelf = dataset_dir, fs, root, shelf

    def make(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each clip `poster`, `video`, `poster_s`, `overlay` and `note`: None where there is none."""
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            made = list(pool.map(self._made, rows, self._fits(rows)))
        left = MAX_OVERLAY_BYTES
        for medium in made:
            if medium["overlay"]:
                left -= len(medium["overlay"]["points"])
                medium["overlay"] = medium["overlay"] if left >= 0 else None
        return made

    def _fits(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[bool]:
        """Examples of what was refused are few and come first."""
        left, fits = MAX_MEDIA_BYTES, {}
        for i in sorted(range(len(rows)), key=lambda i: rows[i]["status"] == Status.KEPT):
            size = rows[i]["sample_size"] or 0
            fits[i] = size <= left
            left -= size if fits[i] else 0
        return (fits[i] for i in range(len(rows)))

    def _made(self, row: Mapping[str, Any], fits: bool) -> dict[str, Any]:
        medium = {"poster": None, "video": None, "poster_s": 0.0, "overlay": None, "note": None}
        if row["shard"] is None or row["sample_offset"] is None or row["sample_size"] is None:
            return {**medium, "note": "Not packed into a shard yet." if row["status"] == Status.KEPT else None}
        if not fits:
            return {**medium, "note": "Not copied: the media of this page would be too large."}
        tar = f"{self._root}/{row['shard']}"
        try:
            medium |= (self._still if row["shard"].startswith("stills/") else self._player)(row, tar)
        except FileNotFoundError:  # not logged for each clip: lost.py says it once
            return {**medium, "note": visible(f"{tar} is gone.")}
        except (OSError, ValueError, av.error.FFmpegError) as error:
            log.warning("%s: cannot show clip %s: %s", tar, row["key"], error)
            return {**medium, "note": visible(f"Its sample cannot be read: {type(error).__name__}: {error}")}
        for what, suffix, media_type in (("poster", "jpg", "image/jpeg"), ("video", "mp4", "video/mp4")):
            if medium[what] is not None:
                medium[what] = self._shelf.put(f"{_stem(row)}.{suffix}", media_type, medium[what])
        return medium

    def _still(self, row: Mapping[str, Any], tar: str) -> dict[str, Any]:
        with remote_errors(self._dataset_dir):
            return {"poster": read_still_at(self._fs, tar, row["sample_offset"], row["sample_size"], row["key"])}

    def _player(self, row: Mapping[str, Any], tar: str) -> dict[str, Any]:
        members = read_clip_at(self._fs, tar, row["sample_offset"], row["sample_size"], row["key"])
        poster, poster_s = poster_and_time(members["mp4"])
        video = playable_mp4(members["mp4"], members["flac"])
        overlay = _overlay(members, row["key"])
        return {"poster": poster, "video": video, "poster_s": round(poster_s, 3), "overlay": overlay}


def _overlay(members: Mapping[str, bytes], key: str) -> dict[str, Any] | None:
    if GEOMETRY not in members:
        return None
    try:
        return pack_overlay(decode_geometry(members[GEOMETRY], json.loads(members["json"]).get("num_frames")))
    except GeometryError as error:
        log.warning("clip %s: cannot show its geometry: %s", key, error)
        return None


def _stem(row: Mapping[str, Any]) -> str:
    """32 hex digits, whatever the key is. Shards never change, so a place in one is a content."""
    place = [_VERSION, row["key"], row["shard"], row["sample_offset"], row["sample_size"]]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:32]
