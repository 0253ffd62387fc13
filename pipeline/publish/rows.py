"""The manifest's rows of one segment: sealed rows, decided under the thresholds, with labels and places in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.schema import COLUMNS, SCHEMA_VERSION
from lipforge.model.clock import FPS
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.publish.accounts import accounted_frames
from lipforge.pipeline.publish.decide import decide_all
from lipforge.pipeline.publish.shards import Place

UNLABELLED = "none"
"""As language_source or speaker_source: the user gave no label."""
RELABELLED = "relabel"
"""As language_source or speaker_source: `lipforge relabel` gave it."""


@dataclass(frozen=True)
class Spoken:
    """The language that a model identified in a source."""

    language: str
    probability: float
    model: str


class Labels(NamedTuple):
    """Labels of one source from `lipforge relabel`; None: as they were."""

    language: str | None
    speaker: str | None


@dataclass(frozen=True)
class Facts:
    """What was learnt of a segment's clips since it was sealed."""

    spoken: Mapping[int, Spoken] = field(default_factory=dict)
    """By content: its language, if the user gave none."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """By entry_id."""
    voices: Mapping[str, str] = field(default_factory=dict)
    """Speaker by key, where the user gave none."""
    moved: Mapping[str, Place] = field(default_factory=dict)
    """Place in a shard by key, of clips that no shard held at first."""
    pruned: Mapping[tuple[str, str], Place | None] = field(default_factory=dict)
    """By key and tar in which media lay: where the still lies that took its place."""


def manifest_rows(sealed: pa.Table, thresholds: Thresholds, facts: Facts) -> pa.Table:
    """Rows of schema.COLUMNS. sealed: SEALED_COLUMNS, sorted by content. Raises AccountsError, ValueError."""
    rows = decide_all(sealed, thresholds)
    first, end = rows["start_frame"].to_numpy(), rows["end_frame"].to_numpy()
    columns: dict[str, Any] = {name: rows[name] for name in COLUMNS.names if name in rows.column_names}
    columns["start_s"], columns["end_s"] = first / FPS, end / FPS
    columns["duration_s"], columns["num_frames"] = (end - first) / FPS, end - first
    columns["accounted_s"] = accounted_frames(rows) / FPS
    columns["detail"] = pc.coalesce(rows["detail"], rows["source_detail"])
    columns["schema_version"] = pa.repeat(pa.scalar(SCHEMA_VERSION, pa.int32()), len(rows))
    columns |= _labels(rows, facts) | places_now(rows, facts)
    return pa.table({name: columns[name] for name in COLUMNS.names}).cast(COLUMNS)


def _labels(rows: pa.Table, facts: Facts) -> dict[str, pa.Array]:
    """Language and speaker. A user's later label wins over an earlier one, and any label over a model's word."""
    language, speaker = rows["language"].to_pylist(), rows["speaker"].to_pylist()
    language_source, speaker_source = rows["language_source"].to_pylist(), rows["speaker_source"].to_pylist()
    probability: list[float | None] = [None if source == UNLABELLED else 1.0 for source in language_source]
    for row, content in enumerate(rows["content"].to_pylist()) if facts.spoken else ():
        spoken = facts.spoken.get(content)
        if spoken is not None and language_source[row] == UNLABELLED:
            language[row], probability[row], language_source[row] = spoken.language, spoken.probability, spoken.model
    for row, key in enumerate(rows["key"].to_pylist()) if facts.voices else ():
        voice = facts.voices.get(key)
        if voice is not None and speaker_source[row] == UNLABELLED:
            speaker[row], speaker_source[row] = voice, "voice"
    for row, entry_id in enumerate(rows["entry_id"].to_pylist()) if facts.labels else ():
        labels = facts.labels.get(entry_id)
        if labels is not None and labels.language is not None:
            language[row], probability[row], language_source[row] = labels.language, 1.0, RELABELLED
        if labels is not None and labels.speaker is not None:
            speaker[row], speaker_source[row] = labels.speaker, RELABELLED
    return {
        "language": pa.array(map(stored_language, language), pa.string()),
        "language_prob": pa.array(probability, pa.float32()),
        "language_source": pa.array(language_source, pa.string()),
        "speaker": pa.array(speaker, pa.string()),
        "speaker_source": pa.array(speaker_source, pa.string()),
    }


def places_now(rows: pa.Table, facts: Facts) -> dict[str, Any]:
    """Where each sample, or still, lies now: `shard`, `sample_offset`, `sample_size`. rows: SEALED_COLUMNS."""
    names = ("shard", "sample_offset", "sample_size")
    if not facts.moved and not facts.pruned:
        return {name: rows[name] for name in names}
    places = list(zip(*(rows[name].to_pylist() for name in names), strict=True))
    for row, key in enumerate(rows["key"].to_pylist()):
        tar = places[row][0]
        if tar is None or is_shard(tar):
            continue
        if (key, tar) in facts.pruned:
            places[row] = facts.pruned[key, tar] or (None, None, None)
        if key in facts.moved:
            places[row] = facts.moved[key]
    columns = zip(*places, strict=True) if places else ((), (), ())
    return {name: pa.array(column, COLUMNS.field(name).type) for name, column in zip(names, columns, strict=True)}


def sample_places(rows: pa.Table, facts: Facts) -> dict[str, Place]:
    """Where the sample of each clip lies that has one, by key. rows: SEALED_COLUMNS."""
    columns = places_now(rows, facts)
    names = ("shard", "sample_offset", "sample_size")
    values = zip(rows["key"].to_pylist(), *(columns[name].to_pylist() for name in names), strict=True)
    return {key: Place(*place) for key, *place in values if place[0] and not place[0].startswith("stills/")}


def is_shard(tar: str | None) -> bool:
    """Whether a tar is a shard, and not one of refused media."""
    return tar is not None and tar.startswith("shards/")
