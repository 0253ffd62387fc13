"""Galleries of the report: which clips are shown, their cards and players."""

import base64
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import av.error
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.report.numbers import MEASURES, NO_TRACK, equals
from lipforge.datasets_manifest.sample import read_clip_at, read_still_at
from lipforge.datasets_manifest.sample_media import playable_mp4, poster_jpeg
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.files import remote_errors

log = logging.getLogger(__name__)

MAX_CARDS = 12
MAX_VIDEO_BYTES = 18_000_000
"""All videos of the page together, before base64 adds a third: keeps the page below about 25 MB."""
CARD_COLUMNS = [
    "key",
    "source_uri",
    "track_index",
    "start_s",
    "end_s",
    "language",
    "speaker",
    "status",
    "stage",
    "reason",
    "detail",
    "shard",
    "sample_offset",
    "sample_size",
    *(measure.column for measure in MEASURES),
]


def pick_kept(rows: pa.Table) -> list[str]:
    """Clips for the gallery, spread over sources and over the clips of each."""
    at = np.flatnonzero(equals(rows, "status", Status.KEPT))
    if not len(at):
        return []
    source_ids = rows["source_id"].take(pa.array(at)).combine_chunks().dictionary_encode().indices.to_numpy()
    sources = _spread(len(np.unique(source_ids)), MAX_CARDS)
    share, extra = divmod(MAX_CARDS, len(sources))
    picked = []
    for number, source in enumerate(sources):
        of_source = at[source_ids == source]  # codes are 0, 1, 2 ... in order of first appearance
        picked += [of_source[i] for i in _spread(len(of_source), share + (number < extra))]
    return rows["key"].take(pa.array(picked)).to_pylist()


def pick_not_kept(rows: pa.Table) -> dict[str, list[str]]:
    reasons = rows["reason"].combine_chunks().fill_null("unknown").dictionary_encode()
    codes = np.where(equals(rows, "status", Status.KEPT), -1, reasons.indices.to_numpy())
    picked = {}
    for code, reason in enumerate(reasons.dictionary.to_pylist()):
        at = np.flatnonzero(codes == code)
        if len(at):
            chosen = [at[i] for i in _spread(len(at), MAX_CARDS)]
            picked[reason] = rows["key"].take(pa.array(chosen)).to_pylist()
    return picked


def _spread(length: int, count: int) -> list[int]:
    """Up to `count` positions of 0 .. length - 1, evenly spaced."""
    if length <= count:
        return list(range(length))
    return [int((i + 0.5) * length / count) for i in range(count)]


class Gallery:
    """Makes cards of clips, within a budget of video bytes for the page."""

    def __init__(self, dataset_dir: str, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.dataset_dir, self.fs, self.root = dataset_dir, fs, root
        self.video_bytes_left = MAX_VIDEO_BYTES
        self.rows: dict[tuple[str, str | None], dict[str, Any]] = {}  # by key and reason

    def load(self, keys: Sequence[str]) -> None:
        wanted = pc.field("key").isin(pa.array(keys, pa.string()))
        table = read_manifest(self.dataset_dir, columns=CARD_COLUMNS, filter=wanted)
        for row in table.to_pylist():
            reason = None if row["status"] == Status.KEPT else row["reason"] or "unknown"
            self.rows[row["key"], reason] = row

    def kept_card(self, key: str) -> dict[str, Any]:
        row = self.rows[key, None]
        card = self._card(row)
        if row["shard"] is None or row["sample_offset"] is None or row["sample_size"] is None:
            return {**card, "note": "Not packed into a shard yet."}
        return {
            **card,
            **self._player(key, f"{self.root}/{row['shard']}", row["sample_offset"], row["sample_size"]),
        }

    def lost_card(self, key: str, reason: str) -> dict[str, Any]:
        """With a player when only a threshold refused the clip: its media stays until it is pruned."""
        row = self.rows[key, reason]
        card = self._card(row)
        if row["shard"] is None:
            return card
        tar = f"{self.root}/{row['shard']}"
        if not row["shard"].startswith("stills/"):
            return {**card, **self._player(key, tar, row["sample_offset"], row["sample_size"])}
        try:
            with remote_errors(self.dataset_dir):
                still = read_still_at(self.fs, tar, row["sample_offset"], row["sample_size"], key)
        except (FileNotFoundError, ValueError) as error:
            log.warning("%s: cannot show the still of clip %s: %s", tar, key, error)
            return card
        return {**card, "image": _data_uri("image/jpeg", still)}

    def _player(self, key: str, tar: str, offset: int, size: int) -> dict[str, Any]:
        """The sample at this place of a tar as video and poster image, or a note why there is none."""
        if size > self.video_bytes_left:
            return {"note": "Left out to keep this page small."}
        try:
            members = read_clip_at(self.fs, tar, offset, size, key)
            video, poster = playable_mp4(members["mp4"], members["flac"]), poster_jpeg(members["mp4"])
        except FileNotFoundError:  # not logged for each clip: lost.py says it once
            return {"note": f"{tar} is gone."}
        except (OSError, ValueError, av.error.FFmpegError) as error:
            log.warning("%s: cannot show clip %s: %s", tar, key, error)
            return {"note": f"Its sample cannot be read: {type(error).__name__}: {error}"}
        self.video_bytes_left -= len(video)
        return {"video": _data_uri("video/mp4", video), "image": _data_uri("image/jpeg", poster)}

    def _card(self, row: Mapping[str, Any]) -> dict[str, Any]:
        measures = []
        for measure in MEASURES:
            value = row[measure.column]
            if value is not None and np.isfinite(value) and (row["track_index"] != NO_TRACK):
                measures.append((measure.short_title, f"{value:{measure.format}} {measure.unit}".strip()))
        start_s, end_s = row["start_s"], row["end_s"]
        has_span = start_s is not None and end_s is not None and end_s > start_s
        span = f"{start_s:.2f} to {end_s:.2f} s" if has_span else None
        facts = [fact for fact in (span, row["language"], row["speaker"]) if fact]
        return {**row, "facts": facts, "measures": measures, "image": None, "video": None, "note": None}


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
