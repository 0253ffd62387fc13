"""For each reason: what it means, and what to do about it."""

from dataclasses import dataclass

from lipforge.datasets_manifest.schema import Reason


@dataclass(frozen=True)
class Help:
    meaning: str
    remedy: str


HELP = {
    Reason.UNREADABLE: Help(
        "The file cannot be opened, or is not a media file.",
        "Check that the file was copied completely; remove text, images and archives from the inputs.",
    ),
    Reason.NO_VIDEO: Help("The file has no video track.", "Leave audio files out of the inputs."),
    Reason.NO_AUDIO: Help(
        "The file has no audio track, or it does not cover these seconds.",
        "Find a copy of the video with all its audio.",
    ),
    Reason.TOO_SHORT: Help(
        "A run of usable frames that is shorter than the shortest clip.",
        "Expected between cuts and head turns. Runs of `cut.min_run_s` and more are measured: lower "
        "`thresholds.min_clip_s` and pack again.",
    ),
    Reason.DECODE_ERROR: Help(
        "The file should have these seconds, but they cannot be decoded.",
        "The file is damaged or truncated: download it again.",
    ),
    Reason.FROZEN: Help(
        "The face does not move at all while the audio goes on.",
        "Expected in calls and streams. `cut.max_still_s` is the limit.",
    ),
    Reason.NO_FACE: Help("No face was found in these seconds.", "Expected for title cards and scenery."),
    Reason.MANY_FACES: Help(
        "Another face is in the frame, under face policy `single` or `largest`.",
        "Use `faces.policy=all`: each face is tracked, and sync decides who speaks.",
    ),
    Reason.FACE_TOO_SMALL: Help(
        "The face has too few pixels in the source; enlarging it would blur the mouth.",
        "Use a source of higher resolution; `faces.min_height_px` and `align.max_upscale_ratio` are the limits.",
    ),
    Reason.FACE_LOST: Help(
        "Tracking lost the face before the run was long enough for a clip.",
        "Hands, microphones and turned heads cause this. A larger `faces.max_gap_frames` bridges longer gaps.",
    ),
    Reason.FACE_CUT_OFF: Help(
        "The crop around the face reaches too far beyond the edge of the frame.",
        "The video is framed too tightly. `align.max_outside_ratio` is the limit at `cut`; at `align` it is "
        "`thresholds.max_outside_ratio`: raise it and pack again if repeated pixels at the edge do not matter.",
    ),
    Reason.NO_SPEECH: Help(
        "Silence, music or noise: hardly any speech.",
        "Expected in intros. If speech was missed, lower `thresholds.min_speech_ratio` and pack again.",
    ),
    Reason.LOW_SYNC_CONFIDENCE: Help(
        "Lips and audio do not clearly match throughout: dubbing, a voice-over, or another speaker for a while.",
        "Watch the clips. If they are good, lower `thresholds.min_sync_confidence` and pack again.",
    ),
    Reason.AV_OFFSET_TOO_LARGE: Help(
        "Audio and video are further apart than is safe to correct.",
        "The same offset throughout a source points to its muxing; `thresholds.max_av_offset_frames` is the limit.",
    ),
    Reason.AV_DRIFT: Help(
        "Audio and video run at different speeds, so no single offset puts them in sync.",
        "Find a copy that is in sync throughout; `thresholds.max_av_drift_frames` is the limit.",
    ),
    Reason.LOW_QUALITY: Help(
        "The image is blurred, blocky or noisy.",
        "Use a better copy of the source, or lower `thresholds.min_quality` and pack again.",
    ),
    Reason.DUPLICATE: Help(
        "The same content is already in the dataset under another name.", "Nothing to do: it is used once."
    ),
    Reason.WORKER_CRASHED: Help(
        "The process died on this unit in every attempt.",
        "Read the detail. Often memory ran out: use fewer workers, or leave the file out.",
    ),
    Reason.TIMEOUT: Help(
        "The source or unit ran out of time in every attempt.",
        "Raise `run.unit_timeout_s`, or leave the file out if a decoder hangs on it.",
    ),
    Reason.STORAGE_ERROR: Help(
        "The storage failed while the source was read.",
        "Check the mount, the network or the credentials, and run `lipforge prepare` again: it tries these again.",
    ),
    Reason.INTERNAL_ERROR: Help(
        "A bug in Lipforge.", "Please report it with the detail. `lipforge prepare --retry-failed` tries again."
    ),
}
