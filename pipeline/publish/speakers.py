"""Name the speakers of a dataset by their voices: an embedding per clip, then clusters over the dataset.

    ledger/embeddings/000042.001.parquet     of a segment's clips, as float16
    ledger/voices/000042.001.parquet         the names that its clips got
    ledger/known_voices/000003.parquet       all voices so far, and the segments that they were made of; written last

Names stay when sources are added: only segments that are new are clustered, with the voices that are known. Media is
read, not changed; the manifest gets the names where the user gave none.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.ledger.records import DatasetError, create
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.side_files import SegmentFiles
from lipforge.pipeline.publish.facts import FactFiles
from lipforge.pipeline.publish.rows import UNLABELLED, sample_places
from lipforge.pipeline.publish.shards import Place
from lipforge.pipeline.publish.sound import clip_sound
from lipforge.pipeline.publish.tasks import Mapper
from lipforge.pipeline.publish.voices import NO_VOICES, SourceClips, Voices, assign

if TYPE_CHECKING:  # it loads torch
    from lipforge.model.audio.voice import VoiceEncoder

_KNOWN = "ledger/known_voices"
_CLIPS = 32
"""Clips of one task."""
_WIDTH = 256
EMBEDDING_COLUMNS = pa.schema([("key", pa.string()), ("embedding", pa.binary(2 * _WIDTH))])
VOICE_COLUMNS = pa.schema([("key", pa.string()), ("speaker", pa.string())])
_VOICES_COLUMNS = pa.schema(
    [("name", pa.string()), ("vector", pa.list_(pa.float32(), _WIDTH)), ("seconds", pa.float64())]
)


class Found(NamedTuple):
    """What was told apart."""

    clips: int
    """That have a voice and no label of the user."""
    voices: int
    """In the dataset, with the user's labels."""


@dataclass(frozen=True)
class VoiceWeights:
    """The encoder's file; opened once per process."""

    content: bytes

    def opened(self) -> "VoiceEncoder":
        from lipforge.model.audio.voice import VoiceEncoder

        if self.content not in _opened:
            _opened[self.content] = VoiceEncoder(self.content)
        return _opened[self.content]


_opened: dict[bytes, "VoiceEncoder"] = {}


def open_voice_weights() -> VoiceWeights:
    """Raises ModelFileError, which says what to do."""
    from lipforge.model.audio.voice import FILE
    from lipforge.model.weights.load import load_file

    weights = VoiceWeights(load_file(FILE))
    weights.opened()
    return weights


def identify_speakers(
    store: Store,
    weights: VoiceWeights,
    run_map: Mapper,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Name the voices of all sealed segments. Safe to stop and to repeat. progress: called with (clips heard, clips).

    Raises DatasetError for a clip that cannot be read.
    """
    _listen(store, weights, run_map, progress)
    segments, embeddings, names = Segments(store), SegmentFiles(store, "embeddings"), SegmentFiles(store, "voices")
    facts = FactFiles(store)
    relabelled = [mark for n in segments.numbers() for mark in facts.labels.mark(n)]
    known, included, labels_then = _read_known(store)
    if labels_then != relabelled:  # labels are voices, too: with other ones, all are told apart anew
        known, included = NO_VOICES, []
    new = [
        n
        for n in segments.numbers()
        if embeddings.name(n) and (embeddings.name(n) not in included or names.name(n) is None)
    ]
    if new:
        sources = list(_sources(segments, embeddings, facts, new))
        found = assign([clips for _, clips in sources], known)
        by_segment: defaultdict[int, list[dict[str, str]]] = defaultdict(list)
        for (segment, clips), rows in zip(sources, found.of_clips, strict=True):
            by_segment[segment] += [
                {"key": key, "speaker": found.voices.names[row]}
                for key, row in zip(clips.clip_ids, rows.tolist(), strict=True)
                if row >= 0
            ]
        for segment in new:
            names.write(segment, pa.Table.from_pylist(by_segment[segment], VOICE_COLUMNS))
        known = found.voices
        heard = sorted({*included, *(embeddings.name(n) or "" for n in new)})
        _write_known(store, known, heard, relabelled)
    tables = [table for n in segments.numbers() if (table := names.read(n)) is not None]
    return Found(sum(map(len, tables)), len(known.names))


# --- embeddings ---


def _listen(store: Store, weights: VoiceWeights, run_map: Mapper, progress: Callable[[int, int], None]) -> None:
    segments, facts, files = Segments(store), FactFiles(store), SegmentFiles(store, "embeddings")
    tasks: list[tuple[int, list[tuple[str, Place]]]] = []
    missing: dict[int, int] = {}
    for segment in segments.numbers():
        sealed = segments.sealed(segment)
        if sealed is None:
            continue
        have = files.read(segment)
        heard = set() if have is None else set(have["key"].to_pylist())
        places = sample_places(sealed.rows.filter(sealed.rows["quality"].is_valid()), facts.of(segment, sealed.rows))
        todo = [(key, place) for key, place in places.items() if key not in heard]
        missing[segment] = len(todo)
        tasks += [(segment, todo[first : first + _CLIPS]) for first in range(0, len(todo), _CLIPS)]
    done, total = 0, sum(missing.values())
    progress(0, total)
    waiting: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
    for segment, found in run_map(_Ear(store, weights), tasks):
        waiting[segment] |= found
        done += len(found)
        progress(done, total)
        if len(waiting[segment]) == missing[segment]:
            _add_embeddings(files, segment, waiting.pop(segment))


def _add_embeddings(files: SegmentFiles, segment: int, found: Mapping[str, bytes]) -> None:
    before = files.read(segment)
    rows = {} if before is None else dict(zip(before["key"].to_pylist(), before["embedding"].to_pylist(), strict=True))
    rows |= found
    table = [{"key": key, "embedding": rows[key]} for key in sorted(rows)]
    files.write(segment, pa.Table.from_pylist(table, EMBEDDING_COLUMNS))


class _Ear:
    """Embeds the voices of clips, in any process."""

    def __init__(self, store: Store, weights: VoiceWeights) -> None:
        self.store = store
        self.weights = weights

    def __call__(self, task: tuple[int, Sequence[tuple[str, Place]]]) -> tuple[int, dict[str, bytes]]:
        segment, clips = task
        return segment, {key: self._embedding(key, place) for key, place in clips}

    def _embedding(self, key: str, place: Place) -> bytes:
        sound = clip_sound(self.store, key, place)
        return self.weights.opened().embed(sound).astype(np.float16).tobytes()


# --- voices ---


def _sources(
    segments: Segments, embeddings: SegmentFiles, facts: FactFiles, wanted: Sequence[int]
) -> Iterator[tuple[int, SourceClips]]:
    """(segment, clips) of each content in these segments."""
    for segment in wanted:
        sealed, table = segments.sealed(segment), embeddings.read(segment)
        assert sealed is not None and table is not None
        vectors = dict(zip(table["key"].to_pylist(), table["embedding"].to_pylist(), strict=True))
        rows = sealed.rows.filter(pc.is_in(sealed.rows["key"], table["key"].combine_chunks()))
        names = ["content", "key", "unit_id", "shot_index", "track_index", "start_frame", "end_frame", "speech_ratio"]
        labels = facts.of(segment, sealed.rows).labels
        by_content: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
        for row in rows.select([*names, "entry_id", "speaker", "speaker_source"]).to_pylist():
            given = labels.get(row["entry_id"])
            if given is not None and given.speaker is not None:
                row |= {"speaker": given.speaker, "speaker_source": "relabel"}
            by_content[row["content"]].append(row)
        for clips in by_content.values():
            tracks = {place: number for number, place in enumerate(dict.fromkeys(map(_track, clips)))}
            yield (
                segment,
                SourceClips(
                    clip_ids=[str(row["key"]) for row in clips],
                    embeddings=np.stack([np.frombuffer(vectors[row["key"]], np.float16) for row in clips]),
                    tracks=[tracks[_track(row)] for row in clips],
                    seconds=[_speech_s(row) for row in clips],
                    labels=[None if row["speaker_source"] == UNLABELLED else row["speaker"] for row in clips],  # type: ignore[misc]
                ),
            )


def _track(row: Mapping[str, object]) -> tuple[object, ...]:
    return row["unit_id"], row["shot_index"], row["track_index"]


def _speech_s(row: Mapping[str, object]) -> float:
    frames = row["end_frame"] - row["start_frame"]  # type: ignore[operator]
    return frames / FPS * row["speech_ratio"]  # type: ignore[operator, no-any-return]


def _read_known(store: Store) -> tuple[Voices, list[str], list[str]]:
    """(voices, embeddings that they were made of, relabellings that were known) of the last run."""
    names = store.list(_KNOWN)
    if not names:
        return NO_VOICES, [], []
    try:
        table = parse_parquet(store.read(names[-1]))
        about = json.loads((table.schema.metadata or {})[b"made_from"])
        included, relabelled = about["embeddings"], about["labels"]
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{store.path(names[-1])} is damaged ({error}). Restore it from a copy.") from error
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, _WIDTH)
    voices = Voices(tuple(table["name"].to_pylist()), vectors, table["seconds"].to_numpy())
    return voices, included, relabelled


def _write_known(store: Store, voices: Voices, included: Sequence[str], relabelled: Sequence[str]) -> None:
    names = store.list(_KNOWN)
    number = int(names[-1].rpartition("/")[2].partition(".")[0]) + 1 if names else 1
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(voices.vectors.ravel(), pa.float32()), _WIDTH)
    columns = [pa.array(voices.names, pa.string()), vectors, pa.array(voices.seconds, pa.float64())]
    table = pa.Table.from_arrays(columns, schema=_VOICES_COLUMNS)
    made_from = {"embeddings": list(included), "labels": list(relabelled)}
    table = table.replace_schema_metadata({"made_from": json.dumps(made_from)})
    create(store, f"{_KNOWN}/{number:06d}.parquet", parquet_bytes(table))
