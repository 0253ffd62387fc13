"""What happened to one clip or one source, from the manifest and the ledger."""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Video
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.running.status import last_run

Row = dict[str, Any]


def explain(dataset: str, what: str) -> list[str]:
    """Lines of text. what: a key or its first characters, a source's path, file name, or content hash."""
    rows = _rows(dataset, what)
    if len(rows) == 1 and rows[0]["key"].startswith(what):
        return list(_clip_story(Store(dataset), rows[0]))
    return list(_source_story(Store(dataset), rows))


def _rows(dataset: str, what: str) -> list[Row]:
    text = os.fsencode(what).decode("utf-8", "backslashreplace")
    uri = pc.field("source_uri")
    ways = [pc.starts_with(pc.field("key"), text), uri == text, uri == os.path.abspath(text)]
    ways += [pc.ends_with(uri, "/" + text), pc.starts_with(pc.field("source_id"), text)]
    for way in ways:
        rows = read_manifest(dataset, filter=way).to_pylist()
        if rows:
            return rows
    for error in (last_run(Store(dataset)) or {}).get("storage_errors", []):
        if (
            text in (error["source_uri"], error["source_uri"].rpartition("/")[2])
            or os.path.abspath(text) == error["source_uri"]
        ):
            raise DatasetError(f"{what} is not done yet: {error['detail']}. Run the same `lipforge prepare` again")
    raise DatasetError(f"nothing in {dataset} has the key, path, name or hash {what!r}")


def _clip_story(store: Store, row: Row) -> Iterator[str]:
    yield f"clip {row['key']}"
    yield f"  from {row['source_uri']}"
    yield f"  content {row['source_id']}, unit {row['unit_id'] or '(none)'}"
    yield from _steps(row)
    yield from _media(store, row)


def _steps(row: Row) -> Iterator[str]:
    """What each stage found, up to the one that ended the clip."""
    yield (
        f"  probe: {row['source_width_px']}x{row['source_height_px']} at {row['source_fps']:g} fps"
        if row["source_fps"]
        else "  probe: not usable"
    )
    span = f"{row['start_s']:.2f} to {row['end_s']:.2f} s, {row['num_frames']} frames"
    times = f"{row['decode_passes']:g} time{'' if row['decode_passes'] == 1 else 's'}"
    yield f"  resample: {span}, each source frame decoded {times}"
    if row["audio_downmix"] not in (None, "mono", "mix"):
        yield f"  audio: {row['audio_downmix']}"
    if row["track_index"] is not None and row["track_index"] >= 0:
        yield f"  split_shots: shot {row['shot_index']}"
        faces = "1 face" if row["max_faces"] == 1 else f"at most {row['max_faces']} faces at once"
        yield f"  track_faces: track {row['track_index']}, {faces}, face {row['face_size_px'] or 0:.0f} px high"
    if row["crop_px"]:
        outside = f", up to {row['outside_ratio']:.0%} of it outside the picture" if row["outside_ratio"] else ""
        yield (
            f"  align: {row['align_template'] or 'latentsync'}, {row['crop_px']} px, "
            f"{row['upscale_ratio']:.2f} stored pixels per source pixel{outside}"
        )
    if row["lossy_generations"]:
        yield f"  encode: {row['lossy_generations']} lossy generation"
    if row["speech_ratio"] is not None:
        yield f"  detect_speech: {row['speech_ratio']:.0%} speech"
    if row["sync_model"]:
        confidence = f"confidence {row['sync_confidence']:.2f} ({row['sync_model']})"
        drift = f", drift {row['av_drift_frames']:+.1f} frames" if row["av_drift_frames"] else ""
        yield f"  measure_sync: audio {_offset(row['av_offset_frames'])}{drift}, {confidence}"
    if row["quality_model"]:
        yield f"  measure_quality: {row['quality']:.0f} of 100 ({row['quality_model']})"
    label = f"{row['language']} ({row['language_source']})"
    yield f"  language {label}" + (f", speaker {row['speaker']} ({row['speaker_source']})" if row["speaker"] else "")
    if row["status"] == Status.KEPT:
        yield f"  kept in {_place(row)}" if row["shard"] else "  kept"
        if row["av_offset_frames"]:
            yield f"  its audio was moved by {row['av_offset_frames'] * 1000 // FPS:+d} ms: the stored clip is in sync"
    else:
        yield f"  {row['status']} at {row['stage']}: {row['reason']}" + (f" ({row['detail']})" if row["detail"] else "")


def _media(store: Store, row: Row) -> Iterator[str]:
    """Where the media of a clip that was not kept lies; of any clip, that it is gone."""
    name = row["shard"]
    if name is None:
        if row["lossy_generations"]:
            yield "  its media was pruned"
        return
    end = row["sample_offset"] + row["sample_size"]
    is_still = name.startswith("stills/")
    if is_still and row["lossy_generations"]:
        yield "  its media was pruned"
    what = "a still of it" if is_still else "its media"
    problem = _problem(store.size(name), end)
    if problem is None and row["status"] != Status.KEPT:
        yield f"  {what} is in {_place(row)}"
    elif problem is not None:
        yield f"  {what} is gone: {store.path(name)} {problem}. Restore it from a copy"


def _place(row: Row) -> str:
    return f"{row['shard']}, bytes {row['sample_offset']} to {row['sample_offset'] + row['sample_size']}"


def _problem(size: int | None, end: int) -> str | None:
    """What is wrong with a tar of `size` bytes, None for one that is not there, of which `end` are needed."""
    if size is None:
        return "is not there"
    return None if size >= end else f"has {size} bytes, and {end} are needed"


def _offset(frames: int) -> str:
    if frames == 0:
        return "in sync"
    return f"{counted(abs(frames), 'frame')} {'early' if frames > 0 else 'late'}"


def _source_story(store: Store, rows: list[Row]) -> Iterator[str]:
    videos = _videos(store, {row["source_id"] for row in rows})
    for source_id in dict.fromkeys(row["source_id"] for row in rows):
        own = [row for row in rows if row["source_id"] == source_id]
        for uri in dict.fromkeys(row["source_uri"] for row in own):
            of_uri = [row for row in own if row["source_uri"] == uri]
            yield from _one_source(uri, of_uri, videos.get(source_id))
            yield from _lost_media(store, of_uri)


def _lost_media(store: Store, rows: list[Row]) -> Iterator[str]:
    """Which tars of a source's clips are not as they should be."""
    needed: dict[str, list[int]] = {}
    for row in rows:
        if row["shard"] is not None:
            needed.setdefault(row["shard"], []).append(row["sample_offset"] + row["sample_size"])
    for name, ends in sorted(needed.items()):
        problem = _problem(store.size(name), max(ends))
        if problem is not None:
            what = counted(len(ends), "clip")
            yield f"  media of {what} is gone or damaged: {store.path(name)} {problem}. Restore it from a copy"


def _videos(store: Store, source_ids: set[str]) -> dict[str, Video]:
    """What was probed of these contents, where they were planned."""
    segments = Segments(store)
    claims = segments.claims()
    rows = claims.filter(pc.is_in(claims["source_id"], pa.array(sorted(source_ids), pa.string())))
    found = {}
    for segment, content in zip(rows["segment"].to_pylist(), rows["content"].to_pylist(), strict=True):
        video = segments.contents(segment)[content].video
        found[video.source_id] = video
    return found


def _one_source(uri: str, rows: list[Row], video: Any) -> Iterator[str]:
    seconds = {status: sum(r["accounted_s"] for r in rows if r["status"] == status) for status in Status}
    yield f"source {uri}"
    never_read = rows[0]["reason"] in (Reason.UNREADABLE, Reason.STORAGE_ERROR) and not rows[0]["num_frames"]
    yield "  content could not be used" if never_read else f"  content {rows[0]['source_id']}"
    if video is not None and video.info is not None:
        info = video.info
        yield (
            f"  {info.width_px}x{info.height_px}, {info.video_codec} at {info.mean_fps:g} fps, "
            f"{info.audio_codec or 'no'} audio, rotation {info.rotation_deg}{', mirrored' * info.mirrored}, "
            f"{info.num_frames / FPS:.2f} s"
        )
    yield (
        f"  {sum(seconds.values()):.2f} s in = {seconds[Status.KEPT]:.2f} kept + "
        f"{seconds[Status.REJECTED]:.2f} rejected + {seconds[Status.FAILED]:.2f} failed"
    )
    for row in rows:
        end = f"{row['start_s']:8.2f} to {row['end_s']:8.2f} s"
        face = f"face {row['track_index']}" if row["track_index"] >= 0 else "no face" if row["unit_id"] else "all of it"
        verdict = "kept" if row["status"] == Status.KEPT else f"{row['status']}: {row['reason']}"
        yield f"  {end}  {face:8}  {verdict}" + (f" ({row['detail']})" if row["detail"] else "") + f"  {row['key']}"
