"""Who owns content that several sources hold: the first source that brought it in, also in later runs.

A content record in the ledger names the owner, its labels and the units that the content was cut into. Other sources
with the same content are duplicates. Spans of one file that do not overlap are different content.
"""

from collections.abc import Iterable
from dataclasses import replace

from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.ledger.records import Ledger
from lipforge.pipeline.sources.inputs import Unreadable
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.probe import from_record, to_record

UNLISTED = "0" * 64
"""Stands for the content of a folder that cannot be listed."""


def claim_content(ledger: Ledger, videos: list[Video], max_span_s: float) -> list[Video]:
    """Record owners and units of new content. Returns the owners of all content of these videos.

    Content keeps the labels that it came with, because its samples hold them.
    """
    known = [from_record(content) for content in ledger.contents()]
    usable = [video for video in videos if video.reason is None]
    new, duplicates = split_duplicates(usable, known)
    known = _pass_on(ledger, known, duplicates, {video.source.entry_id for video in usable})
    for video in new:
        units = [unit.unit_id for unit in plan_units(video, max_span_s)]
        ledger.write_content(_content_name(video), to_record(video, None) | {"units": units})
    # A file may have been replaced since: its earlier content stays, as far as it is done.
    wanted = {(video.source.entry_id, video.source_id) for video in usable}
    return [*(video for video in known if (video.source.entry_id, video.source_id) in wanted), *new]


def count_relabelled(owners: list[Video], videos: list[Video]) -> int:
    """How many of these owners have other labels now than when they came in. Another spelling is the same language."""
    given = {video.source.entry_id: video.source for video in videos}
    return sum(given[owner.source.entry_id] != _canonical(owner.source) for owner in owners)


def _canonical(source: Source) -> Source:
    """With the language as inputs write it: ledgers of earlier versions hold it as the user spelled it."""
    return replace(source, language=stored_language(source.language))


def split_duplicates(videos: Iterable[Video], known: Iterable[Video]) -> tuple[list[Video], list[tuple[Video, Video]]]:
    """(new content, [(duplicate, its owner)]).

    known: owners from earlier runs. They stay owners, so adding sources changes nothing that is there. A video that
    overlaps an owner's span is a duplicate as a whole. A known owner itself is in neither list.
    """
    owners: dict[str, list[Video]] = {}
    for video in known:
        owners.setdefault(video.source_id, []).append(video)
    new: list[Video] = []
    duplicates: list[tuple[Video, Video]] = []
    for video in videos:
        same = owners.setdefault(video.source_id, [])
        owner = next((o for o in same if o.first_frame < video.end_frame and video.first_frame < o.end_frame), None)
        if owner is None:
            same.append(video)
            new.append(video)
        elif owner.source.entry_id != video.source.entry_id:
            duplicates.append((video, owner))
    return new, duplicates


def record_unreadable(ledger: Ledger, folders: list[Unreadable]) -> None:
    """Give each folder that cannot be listed a source record, and delete those of folders that now can be."""
    for record in list(ledger.sources()):
        if record["source_id"] == UNLISTED:
            ledger.delete_source(from_record(record).source.entry_id)
    for folder in folders:
        video = Video(Source(folder.uri), UNLISTED, None, Reason.UNREADABLE, f"folder: {folder.detail}")
        ledger.write_source(video.source.entry_id, to_record(video, None))


def _pass_on(
    ledger: Ledger, known: list[Video], duplicates: list[tuple[Video, Video]], present: set[str]
) -> list[Video]:
    """Pass unfinished content whose owner is not in this run to a duplicate that is. Labels stay. Returns the owners.

    Otherwise a run that was stopped before its input folder was moved could never finish.
    present: entries of this run's sources.
    """
    heirs: dict[Video, Video] = {}
    for record in ledger.contents():
        owner = from_record(record)
        copies = [
            video
            for video, its_owner in duplicates
            if its_owner == owner
            and (video.source.start_s, video.source.end_s) == (owner.source.start_s, owner.source.end_s)
        ]
        if not copies or owner.source.entry_id in present or all(map(ledger.read_unit, record["units"])):
            continue
        heir = replace(owner, source=replace(owner.source, uri=copies[0].source.uri))
        ledger.write_content(_content_name(heir), to_record(heir, None) | {"units": record["units"]})
        heirs[owner] = heir
    return [heirs.get(video, video) for video in known]


def _content_name(video: Video) -> str:
    return f"{video.source_id[:32]}-{video.first_frame:08d}-{video.end_frame:08d}"
