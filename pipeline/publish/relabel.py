"""New labels for sources that are in a dataset: language and speaker. Media is not touched.

Labels are written as one file of the ledger, so all of a command's labels are in force or none; the manifest takes the
last label of each source. Samples hold no labels, so nothing contradicts them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import valid_unicode
from lipforge.datasets_manifest.language_tags import canonical_language, is_language
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Source
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.publish.facts import LABEL_COLUMNS, NO_SEGMENT, FactFiles
from lipforge.pipeline.publish.rows import Labels
from lipforge.pipeline.sources.inputs import read_list
from lipforge.pipeline.sources.ownership import without_content
from lipforge.pipeline.sources.path_template import path_labels


class Relabelled(NamedTuple):
    """What new labels were found for."""

    sources: int
    """That got a label. One file may be several sources, each a span of it."""
    others: int
    """In the dataset, and without a new label."""
    unknown: list[str]
    """In the list, and not in the dataset."""


def labels_of_list(path: str) -> Callable[[str, str], Labels | None]:
    """(entry_id, uri) -> the labels that a list gives. A row with a span labels that span, one without the whole file.

    Raises ValueError for a list that is invalid, or gives no label at all.
    """
    rows = list(read_list(path))
    given = {valid_unicode(row.uri) if (row.start_s, row.end_s) == (None, None) else row.entry_id: row for row in rows}
    if all(row.language_source == "none" and row.speaker is None for row in rows):
        raise ValueError(f"{path} gives no label: it needs a column `language` or `speaker`")

    def find(entry_id: str, uri: str) -> Labels | None:
        return _labels(given.get(entry_id) or given.get(uri))

    return find


def _labels(row: Source | None) -> Labels | None:
    if row is None:
        return None
    return Labels(None if row.language_source == "none" else row.language, row.speaker)


def labels_of_paths(template: str) -> Callable[[str, str], Labels | None]:
    """(entry_id, uri) -> the labels that the folders above a file give. Raises ValueError for a wrong template."""
    path_labels("", template)

    def find(entry_id: str, uri: str) -> Labels | None:
        found = path_labels(uri, template)
        language = found.get("language")
        known = canonical_language(language) if language is not None and is_language(language) else None
        speaker = found.get("speaker") or None
        return None if known is None and speaker is None else Labels(known, speaker)

    return find


def relabel(store: Store, find: Callable[[str, str], Labels | None], listed: Iterable[str] = ()) -> Relabelled:
    """Record the labels that `find` gives for the dataset's sources. listed: addresses to say of which are not in it.

    Raises ValueError when no source of the dataset gets one.
    """
    claims = Segments(store).claims(["entry_id", "source_id", "source_uri"])
    sources = list(zip(*(claims[name].to_pylist() for name in ("segment", "entry_id", "source_uri")), strict=True))
    for video in without_content(SourceLog(store), claims):
        sources.append((NO_SEGMENT, video.source.entry_id, valid_unicode(video.source.uri)))
    rows: list[dict[str, Any]] = []
    others: list[str] = []
    for segment, entry_id, uri in sources:
        labels = find(entry_id, uri)
        if labels is None or labels == Labels(None, None):
            others.append(uri)
        else:
            rows.append({"segment": segment, "entry_id": entry_id, **labels._asdict()})
    if not rows:
        example = f", for example not {others[0]}" if others else ""
        what = f"none of the {len(others)} sources of {store.root} gets a label{example}"
        raise ValueError(f"{what}: nothing was changed")
    FactFiles(store).labels.add(pa.Table.from_pylist(rows, LABEL_COLUMNS))
    known = {uri for _, _, uri in sources}
    return Relabelled(len(rows), len(others), [uri for uri in listed if valid_unicode(uri) not in known])


def adopt_labels(segments: Segments, facts: FactFiles) -> bool:
    """Move labels of sources that owned no content to the segments that hold it now; whether there were any.

    A file that could not be read when it got its label may be repaired later.
    """
    waiting = facts.labels_of(NO_SEGMENT)
    if not waiting:
        return False
    claims = segments.claims(["entry_id"])
    claims = claims.filter(pc.is_in(claims["entry_id"], pa.array(list(waiting), pa.string())))
    rows = []
    for segment, entry_id in zip(claims["segment"].to_pylist(), claims["entry_id"].to_pylist(), strict=True):
        later = facts.labels_of(segment).get(entry_id, Labels(None, None))
        missing = Labels(*(None if new else old for new, old in zip(later, waiting[entry_id], strict=True)))
        if missing != Labels(None, None):
            rows.append({"segment": segment, "entry_id": entry_id, **missing._asdict()})
    if rows:
        facts.labels.add(pa.Table.from_pylist(rows, LABEL_COLUMNS))
    return bool(rows)
