"""What the ledger knows of the sources of a run, as columns: there may be a million of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.ledger.source_log import SourceLog, content_names
from lipforge.pipeline.stages.probe import fingerprints, from_record

_AT_ONCE = 50_000
"""Sources that are Python objects at the same time."""


class Known:
    """The log's last word on each source. Sources go by their number in the run."""

    def __init__(self, log: SourceLog, sources: Sequence[Source]) -> None:
        self._log = log
        self._sources = sources
        self._entries = pa.array([source.entry_id for source in sources], pa.string())
        table = log.table(["fingerprint", "reason"])
        rows = pc.index_in(self._entries, table["entry_id"].combine_chunks())
        self._table = table.take(rows)
        """A row per source, null for one that was never probed."""

    def to_probe(self, again: tuple[Reason, ...]) -> list[int]:
        """Sources that are new, or changed, or could not be probed for one of these reasons."""
        wanted = pa.array([reason.value for reason in again], pa.string())
        is_new = pc.or_(self._table["source_id"].is_null(), pc.is_in(self._table["reason"], wanted)).to_numpy()
        known = np.flatnonzero(~is_new)
        changed = [
            n for first in range(0, len(known), _AT_ONCE) for n in self._changed(known[first : first + _AT_ONCE])
        ]
        return sorted([*np.flatnonzero(is_new).tolist(), *changed])

    def _changed(self, numbers: np.ndarray) -> list[int]:
        """Those whose file is not what it was."""
        marks = self._table["fingerprint"].take(pa.array(numbers)).to_pylist()
        listed = [self._sources[number].listed for number in numbers]
        ask = [number for number, mark in zip(numbers, listed, strict=True) if mark is None]
        asked = dict(zip(ask, fingerprints([self._sources[number].uri for number in ask]), strict=True))
        now = [mark or asked[number] for number, mark in zip(numbers, listed, strict=True)]
        return [int(n) for n, mark, mark_now in zip(numbers, marks, now, strict=True) if mark != mark_now]

    def num_unusable(self, to_probe: Sequence[int]) -> int:
        """Of those that are not probed now."""
        reasons = self._table["reason"].to_numpy().copy()
        reasons[list(to_probe)] = None
        return sum(reason not in (None, Reason.NO_AUDIO) for reason in reasons.tolist())

    def unclaimed(self, claims: pa.Table) -> list[int]:
        """Usable sources that own no content: new ones of a run that was stopped, and duplicates."""
        usable = pc.and_(self._table["source_id"].is_valid(), self._table["reason"].is_null())
        return np.flatnonzero(pc.and_not(usable, self._owns(claims)).to_numpy()).tolist()

    def seconds_claimed(self, claims: pa.Table) -> float:
        """Seconds of content that these sources own."""
        mine = claims.filter(pc.is_in(content_names(claims), content_names(self._table).drop_null()))
        return (pc.sum(pc.subtract(mine["end_frame"], mine["first_frame"])).as_py() or 0) / FPS

    def num_relabelled(self, claims: pa.Table) -> int:
        """Sources whose labels are not those that their content came with. Another spelling is the same language."""
        rows = pc.index_in(content_names(self._table).combine_chunks(), content_names(claims).combine_chunks())
        labels = claims.select(["language", "speaker"])
        count = 0
        for first in range(0, len(rows), _AT_ONCE):
            here = rows.slice(first, _AT_ONCE)
            given = self._sources[first : first + _AT_ONCE]
            for is_owner, source, (language, speaker) in zip(
                here.is_valid().to_pylist(), given, _pairs(labels.take(here)), strict=True
            ):
                count += is_owner and (source.language, source.speaker) != (stored_language(language), speaker)
        return count

    def videos(self, numbers: Sequence[int]) -> dict[str, Video]:
        """What is known of these sources, by entry, with the labels of this run."""
        probed = self._table["source_id"].is_valid().take(pa.array(numbers, pa.int64())).to_pylist()
        known = [number for number, was_probed in zip(numbers, probed, strict=True) if was_probed]
        given = {self._sources[number].entry_id: self._sources[number] for number in known}
        records = self._log.records(set(given))
        return {entry: replace(from_record(record), source=given[entry]) for entry, record in records.items()}

    def owners(self, entry_ids: Sequence[str]) -> list[tuple[str, str | None] | None]:
        """(source_id, fingerprint) of each of these entries; None where it is not in this run."""
        rows = pc.index_in(pa.array(entry_ids, pa.string()), self._entries)
        found = self._table.select(["source_id", "fingerprint"]).take(rows).to_pylist()
        return [(row["source_id"], row["fingerprint"]) if row["source_id"] else None for row in found]

    def copies(self, source_ids: Sequence[str], claims: pa.Table) -> dict[str, list[Video]]:
        """Sources of this run that have the content of others, by source_id."""
        if not source_ids:
            return {}
        own = pc.is_in(self._table["source_id"], pa.array(sorted(set(source_ids)), pa.string()))
        numbers = np.flatnonzero(pc.and_not(own, self._owns(claims)).to_numpy()).tolist()
        found: dict[str, list[Video]] = {}
        for video in self.videos(numbers).values():
            found.setdefault(video.source_id, []).append(video)
        return found

    def _owns(self, claims: pa.Table) -> Any:
        return pc.is_in(content_names(self._table), content_names(claims))


def _pairs(table: pa.Table) -> Any:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)
