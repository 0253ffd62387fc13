"""Put a manifest in force: the rows of every segment under the thresholds, and of sources that gave no content.

A segment's rows are written again only when something about them changed, so adding a source costs what it costs, and
packing with nothing to do reads no rows at all. The thresholds in force are those of the manifest in force.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.generations import FOLDER as MANIFEST
from lipforge.datasets_manifest.generations import (
    Generation,
    ManifestChangedError,
    ManifestError,
    last_generation,
    publish_generation,
    sorted_rows,
    write_rows,
)
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.manifest import manifest_table
from lipforge.datasets_manifest.schema import SCHEMA_VERSION, Reason, Stage, Status
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import DatasetError, TakenOverError
from lipforge.pipeline.ledger.segments import Segments, segment_file
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.publish.facts import NO_SEGMENT, FactFiles
from lipforge.pipeline.publish.pack import bring_in
from lipforge.pipeline.publish.relabel import adopt_labels
from lipforge.pipeline.publish.rows import RELABELLED, UNLABELLED, Labels, manifest_rows
from lipforge.pipeline.running.executors import Executor
from lipforge.pipeline.sources.ownership import duplicates_of, without_content

Progress = Callable[[int, int], None]


def publish(
    store: Store,
    config: PrepareConfig,
    hashes: Mapping[str, str],
    executor: Executor,
    progress: Progress = lambda done, total: None,
) -> Totals:
    """Put a manifest under these thresholds in force; returns its sums. Safe to repeat.

    Clips that these thresholds keep and that no shard holds get new shards first. progress: called with (segments done,
    segments to do). Raises DatasetError, TakenOverError.
    """
    previous = generation_in_force(store)
    segments, facts = Segments(store), FactFiles(store)
    require_segments(store, previous, segments)
    there = store.sizes(MANIFEST)
    known = {
        file["made_from"]: file
        for file in (previous.files if previous else ())
        if "made_from" in file and there.get(file["name"]) == file.get("size") and "outcome" in file
    }
    if adopt_labels(segments, facts):
        facts = FactFiles(store)
    limits = thresholds_of(config)
    numbers = [number for number in segments.numbers() if segments.revision(number) >= 0]
    marks = {number: _mark(facts.mark(segments, number), limits) for number in numbers}
    todo = [number for number in numbers if marks[number] not in known]
    if bring_in(store, config, segments, facts, todo, executor.map):
        facts = FactFiles(store)
        marks = {number: _mark(facts.mark(segments, number), limits) for number in numbers}
        todo = [number for number in numbers if marks[number] not in known]
    made: dict[int, dict[str, Any]] = {}
    progress(0, len(todo))
    tasks = [_Task(number, marks[number]) for number in todo]
    for done, (number, file) in enumerate(executor.map(_Writer(store, config), tasks), start=1):
        made[number] = file
        progress(done, len(todo))
    files = [made.get(number) or known[marks[number]] for number in numbers]
    rest = _rows_without_units(store, segments, hashes, facts.labels_of(NO_SEGMENT))
    if len(rest) or not files:
        files.append({**write_rows(store, sorted_rows(rest)), "outcome": Totals.of(rest).as_json()})
    totals = Totals()
    for file in files:
        totals.add(Totals.from_json(file["outcome"]))
    about = {**limits, "outcome": totals.as_json()}
    try:
        publish_generation(store, previous, files, about)
    except ManifestChangedError as error:
        raise TakenOverError(store.path(Generation((previous.number if previous else 0) + 1, []).name)) from error
    return totals


def generation_in_force(store: Store) -> Generation | None:
    """Raises DatasetError when it is damaged."""
    try:
        return last_generation(store)
    except ManifestError as error:
        raise DatasetError(str(error)) from error


def require_segments(store: Store, in_force: Generation | None, segments: Segments) -> None:
    """Check that the ledger has every segment that the manifest in force was made of, as it was sealed then or later.

    Raises DatasetError: without one, its clips would vanish from the next manifest.
    """
    for file in in_force.files if in_force else ():
        if "segment" not in file:
            continue
        number = file["segment"]
        if number not in segments.numbers() or segments.revision(number) < file["revision"]:
            raise DatasetError(
                f"{store.path(segment_file(number, file['revision']))} is gone, which says where the clips of segment "
                f"{number} lie. Restore it from a copy. Until then nothing is changed; the manifest in force, "
                f"{in_force.name if in_force else ''}, can still be selected from."
            )


def thresholds_of(config: PrepareConfig) -> dict[str, Any]:
    """What a generation says of the settings that it was made with."""
    return config.model_dump(mode="json", include={"thresholds", "pack"})


def _mark(about_segment: Any, limits: Mapping[str, Any]) -> str:
    plain = {"segment": about_segment, "thresholds": limits["thresholds"], "schema_version": SCHEMA_VERSION}
    return hashlib.sha256(to_json(plain)).hexdigest()[:32]


@dataclass(frozen=True)
class _Task:
    segment: int
    mark: str


class _Writer:
    """Writes the rows of a segment, in any process."""

    def __init__(self, store: Store, config: PrepareConfig) -> None:
        self.store = store
        self.config = config
        self._files: tuple[Segments, FactFiles] | None = None

    def __call__(self, task: _Task) -> tuple[int, dict[str, Any]]:
        if self._files is None:
            self._files = Segments(self.store), FactFiles(self.store)
        segments, facts = self._files
        sealed = segments.sealed(task.segment)
        assert sealed is not None
        rows = manifest_rows(sealed.rows, self.config.thresholds, facts.of(task.segment, sealed.rows))
        file = write_rows(self.store, sorted_rows(rows))
        failed = rows.filter(pc.field("status") == Status.FAILED)["reason"].unique().to_pylist()
        about = {"segment": task.segment, "made_from": task.mark, "outcome": Totals.of(rows).as_json()}
        contents = len(sealed.rows["content"].unique())
        return task.segment, {
            **file,
            **about,
            "revision": sealed.revision,
            "contents": contents,
            "failed": sorted(failed),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}


def _rows_without_units(
    store: Store, segments: Segments, hashes: Mapping[str, str], labels: Mapping[str, Labels]
) -> pa.Table:
    """Rows of sources that cannot be used, and of duplicates: one each. labels: of `lipforge relabel`, by entry_id."""
    claims = segments.claims()
    videos = without_content(SourceLog(store), claims)
    usable = [video for video in videos if video.reason is None]
    found = [
        *((video, _duplicate(owner)) for video, owner in duplicates_of(usable, claims, segments)),
        *((video, _unusable(video)) for video in videos if video.reason is not None),
    ]
    return manifest_table(
        {**_single_row(video, outcome, hashes), **_new_labels(labels.get(video.source.entry_id))}
        for video, outcome in found
    )


def _duplicate(owner_uri: str) -> dict[str, Any]:
    return {
        "status": Status.REJECTED,
        "reason": Reason.DUPLICATE,
        "detail": f"same content as {owner_uri}",
    }


def _unusable(video: Video) -> dict[str, Any]:
    rejected = video.reason in (Reason.NO_AUDIO, Reason.NO_VIDEO)
    return {"status": Status.REJECTED if rejected else Status.FAILED, "reason": video.reason, "detail": video.detail}


def _new_labels(labels: Labels | None) -> dict[str, Any]:
    """Columns of a row that `lipforge relabel` sets."""
    language, speaker = labels or Labels(None, None)
    columns: dict[str, Any] = {}
    if language is not None:
        columns |= {"language": language, "language_prob": 1.0, "language_source": RELABELLED}
    if speaker is not None:
        columns |= {"speaker": speaker, "speaker_source": RELABELLED}
    return columns


def _single_row(video: Video, outcome: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """The one row of a source without units."""
    info, source = video.info, video.source
    first, end = video.first_frame, video.end_frame
    return {
        "key": hashlib.sha256(f"{video.source_id}:{source.entry_id}".encode()).hexdigest()[:32],
        "source_id": video.source_id,
        "source_uri": source.uri,
        "unit_id": "",
        "start_s": first / FPS,
        "end_s": end / FPS,
        "duration_s": (end - first) / FPS,
        "accounted_s": (end - first) / FPS,
        "num_frames": end - first,
        "shot_index": -1,
        "track_index": -1,
        "source_width_px": info.width_px if info else None,
        "source_height_px": info.height_px if info else None,
        "source_fps": info.mean_fps if info else None,
        "source_transfer": info.transfer if info else None,
        "language": stored_language(source.language),
        "language_prob": None if source.language_source == UNLABELLED else 1.0,
        "language_source": source.language_source,
        "speaker": source.speaker,
        "speaker_source": source.speaker_source,
        "stage": Stage.PROBE,
        **outcome,
        "detail": outcome["detail"] or video.detail or None,
        "decode_passes": 0.0,
        "schema_version": SCHEMA_VERSION,
        **hashes,
    }
