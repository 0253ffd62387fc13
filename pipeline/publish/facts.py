"""What was learnt of clips after their segment was sealed, gathered from the ledger by segment."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.side_files import SegmentFiles, SegmentLog
from lipforge.pipeline.publish.rows import Facts, Labels
from lipforge.pipeline.publish.shards import Place
from lipforge.pipeline.publish.votes import spoken_by_content

NO_SEGMENT = 0
"""As segment of a label: the source owns no content, as duplicates and those that cannot be used."""
LABEL_COLUMNS = pa.schema(
    [
        ("segment", pa.int32()),
        ("entry_id", pa.string()),
        ("language", pa.string()),
        ("speaker", pa.string()),
    ]
)
MOVE_COLUMNS = pa.schema(
    [
        ("segment", pa.int32()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("sample_offset", pa.int64()),
        ("sample_size", pa.int64()),
    ]
)
PRUNE_COLUMNS = pa.schema(
    [
        ("segment", pa.int32()),
        ("key", pa.string()),
        ("tar", pa.string()),
        ("still", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)


class FactFiles:
    """The ledger's tables about clips of sealed segments."""

    def __init__(self, store: Store) -> None:
        self.labels = SegmentLog(store, "labels", LABEL_COLUMNS)
        self.moves = SegmentLog(store, "moves", MOVE_COLUMNS)
        self.pruned = SegmentLog(store, "pruned", PRUNE_COLUMNS)
        self.votes = SegmentFiles(store, "languages")
        self.voices = SegmentFiles(store, "voices")

    def mark(self, segments: Segments, segment: int) -> list[Any]:
        """Changes when anything about a segment does."""
        logs = [log.mark(segment) for log in (self.labels, self.moves, self.pruned)]
        return [segments.sealed_name(segment), *logs, self.votes.name(segment), self.voices.name(segment)]

    def labels_of(self, segment: int) -> dict[str, Labels]:
        """Labels of a segment's sources by entry_id. Later ones replace earlier ones, each of the two by itself.

        segment: or NO_SEGMENT.
        """
        found: dict[str, Labels] = {}
        for row in self.labels.rows(segment).to_pylist():
            before = found.get(row["entry_id"], Labels(None, None))
            found[row["entry_id"]] = Labels(row["language"] or before.language, row["speaker"] or before.speaker)
        return found

    def of(self, segment: int, sealed: pa.Table) -> Facts:
        voices = self.voices.read(segment)
        return Facts(
            spoken=spoken_by_content(sealed, self.votes.read(segment)),
            labels=self.labels_of(segment),
            voices={} if voices is None else dict(_pairs(voices, "key", "speaker")),
            moved=places_of(self.moves.rows(segment)),
            pruned=_pruned(self.pruned.rows(segment)),
        )


def places_of(moves: pa.Table) -> dict[str, Place]:
    """moves: MOVE_COLUMNS. Returns places by key."""
    columns = (moves[name].to_pylist() for name in ("key", "shard", "sample_offset", "sample_size"))
    return {key: Place(*place) for key, *place in zip(*columns, strict=True)}


def _pruned(rows: pa.Table) -> Mapping[tuple[str, str], Place | None]:
    return {
        (row["key"], row["tar"]): Place(row["still"], row["offset"], row["size"]) if row["still"] else None
        for row in rows.to_pylist()
    }


def _pairs(table: pa.Table, *names: str) -> Any:
    return zip(*(table[name].to_pylist() for name in names), strict=True)
