"""Who owns content that several sources hold: the first source that brought it in, also in later runs.

The plan of a segment claims content for its owner (ledger/segments.py). Other sources with the same content are
duplicates. Spans of one file that do not overlap are different content.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.source_log import SourceLog, content_names
from lipforge.pipeline.sources.inputs import Unreadable
from lipforge.pipeline.stages.probe import from_record, to_record

UNLISTED = "0" * 64
"""Stands for the content of a folder that cannot be listed."""


class Claim(NamedTuple):
    """Content that a segment holds, or will."""

    entry_id: str
    source_id: str
    first_frame: int
    end_frame: int
    segment: int
    content: int
    """Row of the segment's plan."""

    def overlaps(self, video: Video) -> bool:
        return self.first_frame < video.end_frame and video.first_frame < self.end_frame


def claims_on(videos: Sequence[Video], claims: pa.Table) -> dict[str, list[Claim]]:
    """The claims on content of these videos, by source_id. claims: of `Segments.claims`."""
    wanted = pa.array(sorted({video.source_id for video in videos}), pa.string())
    rows = claims.filter(pc.is_in(claims["source_id"], wanted))
    found: dict[str, list[Claim]] = {}
    columns = (rows[name].to_pylist() for name in Claim._fields)
    for claim in map(Claim._make, zip(*columns, strict=True)):
        found.setdefault(claim.source_id, []).append(claim)
    return found


def split_duplicates(
    videos: Iterable[Video], claims: dict[str, list[Claim]]
) -> tuple[list[Video], list[tuple[Video, Claim]], list[tuple[Video, Video]]]:
    """(new content, [(duplicate, the claim on its content)], [(duplicate, the new video that owns its content)]).

    claims: of earlier runs. They stay, so adding sources changes nothing that is there. A video that overlaps another
    one's span is a duplicate as a whole. An owner itself is in none of the lists.
    """
    new: list[Video] = []
    old_duplicates: list[tuple[Video, Claim]] = []
    new_duplicates: list[tuple[Video, Video]] = []
    by_content: dict[str, list[Video]] = {}
    for video in videos:
        claim = next((claim for claim in claims.get(video.source_id, ()) if claim.overlaps(video)), None)
        if claim is not None:
            if claim.entry_id != video.source.entry_id:
                old_duplicates.append((video, claim))
            continue
        same = by_content.setdefault(video.source_id, [])
        owner = next((o for o in same if o.first_frame < video.end_frame and video.first_frame < o.end_frame), None)
        if owner is None:
            same.append(video)
            new.append(video)
        else:
            new_duplicates.append((video, owner))
    return new, old_duplicates, new_duplicates


def duplicates_of(videos: Sequence[Video], claims: pa.Table, segments: Segments) -> list[tuple[Video, str]]:
    """[(duplicate, where its owner was found)] of videos without content of their own."""

    @cache
    def uris(segment: int) -> list[str]:
        return [content.video.source.uri for content in segments.contents(segment)]

    _, duplicates, _ = split_duplicates(videos, claims_on(videos, claims))
    return [(video, uris(claim.segment)[claim.content]) for video, claim in duplicates]


def without_content(log: SourceLog, claims: pa.Table) -> list[Video]:
    """Sources that own no content: duplicates, those that cannot be used, and those that are not planned yet.

    claims: of `Segments.claims`.
    """
    sources = log.table([])
    rest = sources.filter(pc.invert(pc.is_in(content_names(sources), content_names(claims))))
    return [from_record(record) for record in log.records(set(rest["entry_id"].to_pylist())).values()]


def stand_in(owner: Video, copies: Iterable[Video]) -> Video:
    """An unfinished owner that is not in this run, read from a duplicate that is.

    Otherwise a run that was stopped before its input folder was moved could never finish. copies: duplicates of it.
    """
    span = (owner.source.start_s, owner.source.end_s)
    copy = next((video for video in copies if (video.source.start_s, video.source.end_s) == span), None)
    if copy is None:
        return owner
    return replace(owner, source=replace(owner.source, uri=copy.source.uri), fingerprint=copy.fingerprint)


def record_unreadable(log: SourceLog, folders: list[Unreadable]) -> None:
    """Give each folder that cannot be listed a source record, and forget those of folders that now can be."""
    known = log.table([])
    for entry_id in known.filter(pc.equal(known["source_id"], UNLISTED))["entry_id"].to_pylist():
        log.forget(entry_id)
    for folder in folders:
        video = Video(Source(folder.uri), UNLISTED, None, Reason.UNREADABLE, f"folder: {folder.detail}")
        log.add(video.source.entry_id, to_record(video))
