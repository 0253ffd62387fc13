"""Read each source once: its content hash, what it contains, whether it can be used. Never changes it."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import fsspec

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.datasets_manifest.storage.store import READS_AT_ONCE
from lipforge.pipeline.clip import Source, Video, fingerprint_of
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import VideoInfo, probe
from lipforge.pipeline.media.source_file import NotThereError, SourceFile

BLOCK_BYTES = 1 << 20


class Probe:
    """Turns a source into a video: hashes it, opens it and reads every packet header."""

    name = Stage.PROBE

    def process(self, source: Source) -> Video:
        """Raises StorageError when the storage fails."""
        try:
            source_id, size_bytes = content_hash(source.uri)
        except NotThereError as error:
            return unread(source, Reason.UNREADABLE, f"cannot be read: {error}")
        if size_bytes == 0:
            return Video(source, source_id, None, Reason.UNREADABLE, "the file is empty")
        try:
            info = probe(source.uri)
        except NotThereError as error:  # gone since it was hashed
            return unread(source, Reason.UNREADABLE, f"cannot be read: {error}")
        except MediaError as error:
            return Video(source, source_id, None, error.reason, error.detail)
        if not info.has_audio:
            return Video(source, source_id, info, Reason.NO_AUDIO, "no audio track")
        return Video(source, source_id, info, detail=info.note)


def unread(source: Source, reason: Reason, detail: str) -> Video:
    """A source whose content is not known: its id comes from its address."""
    name = hashlib.sha256(b"uri:" + os.fsencode(source.uri)).hexdigest()
    return Video(source, name, None, reason, detail)


def content_hash(uri: str) -> tuple[str, int]:
    """(sha256 in hex, number of bytes) of a file. Raises NotThereError, StorageError."""
    digest = hashlib.sha256()
    num_bytes = 0
    with SourceFile(uri) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            num_bytes += len(block)
        file.check()
    return digest.hexdigest(), num_bytes


def fingerprint(uri: str) -> str | None:
    """Changes when a file does, and is cheap: size and time, or an object store's tag. None when unavailable."""
    try:
        if "://" not in uri:
            status = os.stat(uri)
            return f"{status.st_size}:{status.st_mtime_ns}"
        filesystem, path = fsspec.core.url_to_fs(uri)
        about = filesystem.info(path)
    except Exception:  # noqa: BLE001 - libraries of storage raise what they like; reading it will tell
        return None
    return fingerprint_of(about)


def fingerprints(uris: Sequence[str]) -> list[str | None]:
    """Of many files, many requests at once."""
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(fingerprint, uris)) if any("://" in uri for uri in uris) else [*map(fingerprint, uris)]


def to_record(video: Video) -> dict[str, Any]:
    """A video as plain values for the ledger."""
    return {
        "source": {name: value for name, value in asdict(video.source).items() if name != "listed"},
        "source_id": video.source_id,
        "info": asdict(video.info) if video.info else None,
        "reason": video.reason.value if video.reason else None,
        "detail": video.detail,
        "fingerprint": video.fingerprint,
    }


def from_record(record: dict[str, Any]) -> Video:
    info = record["info"]
    if info is not None:
        info = VideoInfo(**{**info, "key_times_s": tuple(info["key_times_s"])})
    reason = Reason(record["reason"]) if record["reason"] else None
    source = Source(**record["source"])
    return Video(source, record["source_id"], info, reason, record["detail"], record["fingerprint"])
