"""Every reason in words: what it means, and what a person can do about it."""

from dataclasses import dataclass

from lipforge.datasets_manifest.schema import Reason


@dataclass(frozen=True)
class Help:
    """What a reason means, and what a person can do about it."""

    meaning: str
    remedy: str


HELP = {
    Reason.UNREADABLE: Help(
        "The file cannot be opened, or is not a media file.",
        "Check that the file was copied whole; take text, images and archives out of the inputs.",
    ),
    Reason.NO_VIDEO: Help("There is no picture track in the file.", "Leave audio files out of the inputs."),
    Reason.NO_AUDIO: Help("There is no audio track.", "Find a copy of the video with its sound."),
    Reason.TOO_SHORT: Help(
        "A run of usable frames, but shorter than the shortest clip.",
        "Expected between cuts and head turns. A smaller `cut.min_clip_s` keeps more, in a new dataset.",
    ),
    Reason.DECODE_ERROR: Help(
        "The file promises these seconds, and they cannot be decoded.",
        "The file is damaged or cut off: fetch it again.",
    ),
    Reason.NO_FACE: Help(
        "Nobody's face was found in these seconds.", "Expected for title cards and scenery; look at the pictures below."
    ),
    Reason.MANY_FACES: Help(
        "Another face is in the picture, under face policy `single` or `largest`.",
        "Use `faces.policy=all`: each face is followed, and sync decides who speaks.",
    ),
    Reason.FACE_TOO_SMALL: Help(
        "The face has too few pixels in the source; enlarging it would blur the mouth.",
        "Use a source of higher resolution; `faces.min_height_px` and `align.max_upscale_ratio` are the limits.",
    ),
    Reason.FACE_LOST: Help(
        "A face was followed, and lost before the run was long enough for a clip.",
        "Hands, microphones and turned heads do this. A larger `faces.max_gap_frames` bridges longer gaps.",
    ),
    Reason.FACE_CUT_OFF: Help(
        "The crop around the face reaches too far beyond the edge of the picture.",
        "The video is framed too tightly; `align.max_outside_ratio` says how much is accepted.",
    ),
    Reason.NO_SPEECH: Help(
        "Silence, music or noise: hardly anyone speaks.",
        "Expected in intros. Lower `thresholds.min_speech_ratio` and pack again if speech was missed.",
    ),
    Reason.LOW_SYNC_CONFIDENCE: Help(
        "Lips and sound do not clearly belong together, throughout: dubbing, a voice-over, or someone else speaks for a while.",
        "Watch the clips. If they are good, lower `thresholds.min_sync_confidence` and pack again.",
    ),
    Reason.AV_OFFSET_TOO_LARGE: Help(
        "Sound and picture are further apart than is safe to correct.",
        "One offset throughout a source points at its muxing; `thresholds.max_av_offset_frames` accepts more.",
    ),
    Reason.LOW_QUALITY: Help(
        "The picture is blurred, blocky or noisy.",
        "Use a better copy of the source, or lower `thresholds.min_quality` and pack again.",
    ),
    Reason.DUPLICATE: Help(
        "The same content is already in the dataset under another name.", "Nothing to do: it is used once."
    ),
    Reason.WORKER_CRASHED: Help(
        "The process died on this unit in every attempt.",
        "Read the detail below. Often memory ran out: use fewer workers, or leave the file out.",
    ),
    Reason.TIMEOUT: Help(
        "The unit ran out of time in every attempt.",
        "Raise `run.unit_timeout_s`, or leave the file out if it hangs a decoder.",
    ),
}
