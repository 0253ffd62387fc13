"""The manifest's rows, from the ledger: each second of each source is accounted for in exactly one of them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.schema import SCHEMA_VERSION, Reason, Stage, Status
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.publish.decide import decided, is_measured

Row = dict[str, Any]

_PRECEDENCE = {Status.KEPT.value: 0, Status.REJECTED.value: 1, Status.FAILED.value: 2}


class AccountsError(Exception):
    """Seconds are missing or counted twice: a bug in Lipforge, never a fault of the data."""


@dataclass(frozen=True)
class Spoken:
    """The language that a model identified in a source."""

    language: str
    probability: float
    model: str


def video_rows(
    video: Video,
    units: Iterable[Mapping[str, Any]],
    thresholds: Thresholds,
    hashes: Mapping[str, str],
    spoken: Spoken | None = None,
) -> list[Row]:
    """Manifest rows of one video from the ledger records of its units, decided under these thresholds, without places.

    spoken: its language, used if the user gave none.
    Raises AccountsError unless they account for each second exactly once.
    """
    rows = [
        {**decided(row, thresholds), "unit_id": unit["unit_id"], "attempt": unit["attempt"]}
        for unit in units
        for row in unit["rows"]
    ]
    account(rows, video.first_frame, video.end_frame)
    return [_complete(row, video, hashes, spoken) for row in rows]


def account(rows: list[Row], first_frame: int, end_frame: int) -> None:
    """Give each row the number of frames that it alone accounts for, as `accounted_frames`.

    Tracks of several faces overlap in time: kept clips take their frames first, then rejected ones, then failed ones;
    of the rejected ones first those that were measured, so that the run of a seam goes by what became of its clip.
    """
    owner = np.full(end_frame - first_frame, -1, dtype=np.int64)
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            _PRECEDENCE[rows[i]["status"]],
            not is_measured(rows[i]),
            rows[i]["start_frame"],
            rows[i]["track_index"],
        ),
    )
    for index in order:
        row = rows[index]
        span = owner[row["start_frame"] - first_frame : row["end_frame"] - first_frame]
        free = span == -1
        row["accounted_frames"] = int(free.sum())
        span[free] = index
    missing = int((owner == -1).sum())
    if missing:
        at = first_frame + int(np.flatnonzero(owner == -1)[0])
        raise AccountsError(f"{missing} frames have no row, the first at {at / FPS:.2f} s")


def single_row(
    video: Video, status: Status, stage: Stage, reason: Reason, detail: str, hashes: Mapping[str, str]
) -> Row:
    """The one row of a source without units."""
    name = hashlib.sha256(f"{video.source_id}:{video.source.entry_id}".encode()).hexdigest()[:32]
    first, end = video.first_frame, video.end_frame
    row = {
        "clip_id": name,
        "key": name,
        "unit_id": "",
        "start_frame": first,
        "end_frame": end,
        "accounted_frames": end - first,
        "shot_index": -1,
        "track_index": -1,
        "status": status.value,
        "stage": stage.value,
        "reason": reason.value,
        "detail": detail,
        "attempt": 1,
        "decode_passes": 0.0,
    }
    return _complete(row, video, hashes)


def _complete(row: Row, video: Video, hashes: Mapping[str, str], spoken: Spoken | None = None) -> Row:
    """Frames become seconds; source, labels and hashes are added. Without a detail of its own, it has the source's."""
    row = dict(row)
    first, end = row.pop("start_frame"), row.pop("end_frame")
    accounted = row.pop("accounted_frames")
    info, source = video.info, video.source
    return {
        **row,
        "detail": row["detail"] or video.detail or None,
        "source_id": video.source_id,
        "source_uri": source.uri,
        "start_s": first / FPS,
        "end_s": end / FPS,
        "duration_s": (end - first) / FPS,
        "accounted_s": accounted / FPS,
        "num_frames": end - first,
        "source_width_px": info.width_px if info else None,
        "source_height_px": info.height_px if info else None,
        "source_fps": info.mean_fps if info else None,
        "source_transfer": info.transfer if info else None,
        **_language(source, spoken),
        "speaker": source.speaker,
        "speaker_source": source.speaker_source,
        "schema_version": SCHEMA_VERSION,
        **hashes,
    }


def _language(source: Source, spoken: Spoken | None) -> Row:
    """The user's label wins over an identified language."""
    if source.language_source != "none" or spoken is None:
        probability = 1.0 if source.language_source != "none" else None
        label = (stored_language(source.language), probability, source.language_source)
    else:
        label = (spoken.language, spoken.probability, spoken.model)
    return dict(zip(("language", "language_prob", "language_source"), label, strict=True))


@dataclass
class Totals:
    """Sums over the manifest's rows."""

    seconds_by_outcome: dict[str, float] = field(default_factory=dict)
    """Accounted seconds: of `kept`, and of each reason."""
    clips_by_outcome: dict[str, int] = field(default_factory=dict)
    """Rows: of `kept`, and of each reason."""
    _found_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """Accounted seconds by (uri, source_id): a file may be replaced by another one between runs."""
    _wanted_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _entries: set[tuple[str, str]] = field(default_factory=set)

    def add(self, video: Video, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass the rows of a video through and count them. One file may be several videos, each a span of it."""
        source = (video.source.uri, video.source_id)
        self._entries.add((video.source.entry_id, video.source_id))
        self._wanted_s[source] = self._wanted_s.get(source, 0.0) + video.seconds_in
        for row in rows:
            outcome = "kept" if row["status"] == Status.KEPT else row["reason"]
            self.seconds_by_outcome[outcome] = self.seconds_by_outcome.get(outcome, 0.0) + row["accounted_s"]
            self.clips_by_outcome[outcome] = self.clips_by_outcome.get(outcome, 0) + 1
            self._found_s[source] = self._found_s.get(source, 0.0) + row["accounted_s"]
            yield row

    def check(self, videos: Iterable[Video]) -> None:
        """Check that seconds in = kept + rejected + failed. Raises AccountsError naming the first video that is off."""
        for video in videos:
            source = (video.source.uri, video.source_id)
            if (video.source.entry_id, video.source_id) not in self._entries:
                raise AccountsError(f"{source[0]}: {video.seconds_in:.2f} s in, and no rows")
            wanted_s, found_s = self._wanted_s[source], self._found_s.get(source, 0.0)
            if abs(found_s - wanted_s) > 0.5 / FPS:
                raise AccountsError(f"{source[0]}: {wanted_s:.2f} s in, {found_s:.2f} s in the rows")
