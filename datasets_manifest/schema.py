"""The manifest's contract: columns, outcomes and reasons of each candidate clip.

The pipeline writes rows, everything else reads them.
"""

from enum import StrEnum

import pyarrow as pa

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)


class Stage(StrEnum):
    """The pipeline's stages, in the order of the flow: the values of `stage`."""

    PROBE = "probe"
    RESAMPLE = "resample"
    SPLIT_SHOTS = "split_shots"
    TRACK_FACES = "track_faces"
    CUT = "cut"
    ALIGN = "align"
    ENCODE = "encode"
    DETECT_SPEECH = "detect_speech"
    MEASURE_SYNC = "measure_sync"
    MEASURE_QUALITY = "measure_quality"
    COMMIT = "commit"


STAGES = tuple(Stage)


class Status(StrEnum):
    """Outcome of a candidate."""

    KEPT = "kept"
    """Passed every stage; its sample is in a shard."""
    REJECTED = "rejected"
    """Readable, but not good enough to train on."""
    FAILED = "failed"
    """Could not be processed."""


class Reason(StrEnum):
    """Why a candidate was not kept. `detail` has the numbers."""

    UNREADABLE = "unreadable"
    """The file cannot be opened, or is not a media file."""
    NO_VIDEO = "no_video"
    NO_AUDIO = "no_audio"
    """There is no audio track, or it does not cover these seconds. (A silent track is `no_speech`.)"""
    TOO_SHORT = "too_short"
    """A run of usable frames, but shorter than the shortest clip."""
    DECODE_ERROR = "decode_error"
    """The file should have these seconds, but they cannot be decoded."""
    FROZEN = "frozen"
    """The face does not move at all while the audio goes on."""
    NO_FACE = "no_face"
    MANY_FACES = "many_faces"
    """More than one face, under face policy `single`."""
    FACE_TOO_SMALL = "face_too_small"
    FACE_LOST = "face_lost"
    """Tracking lost the face before the run was long enough."""
    FACE_CUT_OFF = "face_cut_off"
    """The crop reaches too far beyond the edge of the frame."""
    NO_SPEECH = "no_speech"
    LOW_SYNC_CONFIDENCE = "low_sync_confidence"
    AV_OFFSET_TOO_LARGE = "av_offset_too_large"
    AV_DRIFT = "av_drift"
    """Audio and video run at different speeds."""
    LOW_QUALITY = "low_quality"
    DUPLICATE = "duplicate"
    """The same content is already in the dataset under another name."""
    WORKER_CRASHED = "worker_crashed"
    """The process died on this unit in every attempt."""
    TIMEOUT = "timeout"
    """The source or unit ran out of time in every attempt."""
    STORAGE_ERROR = "storage_error"
    """The storage failed while the source was probed. The next run tries again."""
    INTERNAL_ERROR = "internal_error"
    """A bug in Lipforge. `--retry-failed` tries again."""


ADDED_COLUMNS = frozenset({"source_transfer", "av_drift_frames", "audio_downmix", "align_template", "outside_ratio"})
"""Columns that older manifests of this version lack. They read as null."""


def _column(name: str, type_: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, type_, metadata={"meaning": meaning})


COLUMNS = pa.schema(
    [
        # identity
        _column("key", pa.string(), "stem of the sample's members: hex of source content, time span and track"),
        _column("source_id", pa.string(), "sha256 of the source file"),
        _column("source_uri", pa.string(), "where the source was found"),
        _column("unit_id", pa.string(), "work unit that made the clip: the source, or a span of a long one"),
        # time, on the clock of the source's video stream (its first frame is 0)
        _column("start_s", pa.float64(), "first frame, seconds after the first frame of the source's video"),
        _column("end_s", pa.float64(), "end of the last frame, seconds"),
        _column("duration_s", pa.float64(), "end_s - start_s"),
        _column(
            "accounted_s",
            pa.float64(),
            "seconds of the source that this row alone answers for; they add up to the source",
        ),
        _column("num_frames", pa.int32(), "frames at 25 fps"),
        _column("shot_index", pa.int32(), "shot within the unit, from 0"),
        _column("track_index", pa.int32(), "face track within the unit, from 0; -1: no face"),
        # frames
        _column("source_width_px", pa.int32(), "width as displayed (square pixels, upright), of the first picture"),
        _column("source_height_px", pa.int32(), "height as displayed (square pixels, upright), of the first picture"),
        _column("source_fps", pa.float64(), "mean frame rate of the source"),
        _column("source_transfer", pa.string(), "transfer function of the source: sdr, pq or hlg; null when unknown"),
        _column("face_size_px", pa.float32(), "median face height, pixels of the source as displayed"),
        _column("max_faces", pa.int32(), "most faces seen at once during the clip"),
        _column("crop_px", pa.int32(), "side of the stored square crop"),
        _column("align_template", pa.string(), "which part of the picture the crop is; null: latentsync"),
        _column("upscale_ratio", pa.float32(), "median stored pixels per source pixel; above 1 the crop was enlarged"),
        _column("outside_ratio", pa.float32(), "largest share of a frame's crop outside the picture: repeated pixels"),
        # sync
        _column("av_offset_frames", pa.int32(), "offset found in the source at 25 fps; positive: the audio is early"),
        _column(
            "sync_confidence",
            pa.float32(),
            "confidence, of the built-in judge that of the weakest 4 s; compare only within one sync_model",
        ),
        _column("sync_distance", pa.float32(), "distance at the best offset, in sync_model's own unit"),
        _column("sync_model", pa.string(), "name of the sync scorer"),
        _column("av_drift_frames", pa.float32(), "change of the offset from the first to the last frame of the clip"),
        _column("audio_downmix", pa.string(), "how the source's channels became one: mono, mix, or which were used"),
        # quality
        _column("quality", pa.float32(), "no-reference picture quality, 0..100; compare only within one quality_model"),
        _column("quality_model", pa.string(), "name of the quality scorer"),
        _column("speech_ratio", pa.float32(), "share of the clip's time with speech, 0..1"),
        # language and speaker
        _column("language", pa.string(), "BCP 47 code, `und` when unknown"),
        _column("language_prob", pa.float32(), "probability of the language; 1 for a given label"),
        _column("language_source", pa.string(), "list, path, flag, a model's name, or none"),
        _column("speaker", pa.string(), "speaker label; null when unknown"),
        _column("speaker_source", pa.string(), "list, path, flag, or none"),
        # outcome
        _column("status", pa.string(), "kept, rejected or failed"),
        _column("stage", pa.string(), "stage that decided; `commit` for kept clips"),
        _column("reason", pa.string(), "one of Reason; null for kept clips"),
        _column(
            "detail",
            pa.string(),
            "free text: what was measured, what was expected; of a kept clip, which streams of the source were used",
        ),
        # place
        _column(
            "shard",
            pa.string(),
            "tar below the dataset: of the sample in shards/ or refused/, or of a still in stills/; null: neither",
        ),
        _column("sample_offset", pa.int64(), "first byte of the sample in the tar"),
        _column("sample_size", pa.int64(), "bytes of the sample in the tar"),
        # lineage
        _column("decode_passes", pa.float32(), "times that each source frame of the unit was decoded"),
        _column("lossy_generations", pa.int32(), "lossy encodes of the stored clip since the source"),
        _column("config_hash", pa.string(), "hash of the settings that shape media and measures"),
        _column("models_hash", pa.string(), "hash of all model files used"),
        _column("schema_version", pa.int32(), "version of this list of columns"),
    ]
)
