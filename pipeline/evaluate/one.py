"""Judge one video: read it, its reference, and the same picture with other sounds, and take the numbers."""

from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.evaluate.clip import AlignedClip, Unmeasurable
from lipforge.pipeline.evaluate.inputs import Item
from lipforge.pipeline.evaluate.judge import Judge, Measured
from lipforge.pipeline.evaluate.metrics import METRICS, Sound
from lipforge.pipeline.evaluate.mouth import LEAST_MOVEMENT, leak, movement, opening_curve
from lipforge.pipeline.evaluate.read import OpenVideo, Place
from lipforge.pipeline.evaluate.result import FAILED, MEASURED, UNMEASURED
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.source_file import NotThereError

UNUSABLE = (MediaError, NotThereError)
"""What a file raises that is damaged, or is not there."""
_LEAST_OPENING = 0.004
"""Of a mouth that speaks, on the mean."""
_OF_REFERENCE = tuple(name for name, one in METRICS.items() if one.needs_reference and one.sound is Sound.OWN)


@dataclass
class Judged:
    """What is known of one video."""

    status: str
    """MEASURED, UNMEASURED or FAILED."""
    detail: str = ""
    """Why, in words."""
    measured: Measured = field(default_factory=Measured)
    clip: AlignedClip | None = None
    reference: AlignedClip | None = None
    lost: dict[str, str] = field(default_factory=dict)
    """Files beside the video that should have been used and cannot be: path -> why."""


def judge_video(item: Item, judge: Judge, seconds: float, *, limited: bool = False) -> Judged:
    """All numbers of one video. seconds: from the beginning, are judged.

    limited: the video was made of the reference's first seconds only. Raises StorageError when storage fails.
    """
    lost: dict[str, str] = {}
    try:
        return _judge(item, judge, seconds, limited, lost)
    except Unmeasurable as error:
        return Judged(UNMEASURED, str(error), lost=lost)
    except UNUSABLE as error:
        return Judged(FAILED, _words(error), lost=lost)


def _judge(item: Item, judge: Judge, seconds: float, limited: bool, lost: dict[str, str]) -> Judged:
    video = OpenVideo(item.video, seconds)
    reference, place, why = _open_reference(item, seconds, judge, lost)
    if reference is not None and place is not None and not video.fits(place):
        place, why = None, "the reference has another shape"
    if place is None:
        place = video.find_face(judge.faces)
    clip = _clip(item, video, place, judge)
    other: AlignedClip | None = None
    if reference is not None and not why:
        try:
            other = _clip(item, reference, place, judge)
            clip, other = _common(clip, other)
        except Unmeasurable as error:
            why = f"reference: {error}"
        except UNUSABLE as error:
            reference, why = None, _lose(lost, reference.uri, "reference", error)
    crops = video.face_crops(place)[: len(clip.frames)] if judge.networks.syncnet is not None else None
    found = judge.measured(clip, other, crops)
    if item.reference is None:
        why = "no reference"
    if other is None:
        found.reasons.update(dict.fromkeys(_OF_REFERENCE, why))
    if reference is not None:
        _lengths(found, video, reference, seconds if limited else None)
    _other_sounds(found, item, judge, seconds, place, clip, other, why, lost)
    return Judged(MEASURED, why if reference is None and item.reference else "", found, clip, other, lost)


def _open_reference(
    item: Item, seconds: float, judge: Judge, lost: dict[str, str]
) -> tuple[OpenVideo | None, Place | None, str]:
    """(the reference, where its face is, why one of them is missing)"""
    if item.reference is None:
        return None, None, ""
    reference: OpenVideo | None = None
    try:
        reference = OpenVideo(item.reference, seconds)
        return reference, reference.find_face(judge.faces), ""
    except Unmeasurable as error:
        return reference, None, f"reference: {error}"
    except UNUSABLE as error:
        return None, None, _lose(lost, item.reference, "reference", error)


def _lose(lost: dict[str, str], path: str, what: str, error: Exception) -> str:
    """Note a file that cannot be used, and return the reason of the numbers that need it."""
    lost[path] = _words(error)
    return f"the {what} cannot be read: {lost[path]}"


def _clip(item: Item, video: OpenVideo, place: Place, judge: Judge) -> AlignedClip:
    crops = video.crops(place)
    return judge.aligned(item.name, crops, video.sound(place.first_frame, len(crops)), item.language, item.speaker)


def _common(clip: AlignedClip, other: AlignedClip) -> tuple[AlignedClip, AlignedClip]:
    count = min(len(clip.frames), len(other.frames))
    return _first(clip, count), _first(other, count)


def _first(clip: AlignedClip, count: int) -> AlignedClip:
    if len(clip.frames) == count:
        return clip
    samples = (count + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    return replace(clip, frames=clip.frames[:count], points=clip.points[:count], audio=clip.audio[:samples])


def _lengths(found: Measured, video: OpenVideo, reference: OpenVideo, limit_s: float | None) -> None:
    frames, length_s = video.length()
    wanted, wanted_s = reference.length()
    if limit_s is not None and wanted_s > limit_s:
        per_frame_s = wanted_s / wanted
        wanted = ceil(limit_s / per_frame_s - 1e-3)
        wanted_s = wanted * per_frame_s
    found.values["frames_error"] = float(frames - wanted)
    found.values["length_error_s"] = length_s - wanted_s
    for name in ("frames_error", "length_error_s"):
        found.reasons.pop(name, None)


def _other_sounds(
    found: Measured,
    item: Item,
    judge: Judge,
    seconds: float,
    place: Place,
    clip: AlignedClip,
    reference: AlignedClip | None,
    why: str,
    lost: dict[str, str],
) -> None:
    """Numbers of the same picture that was made with silence, and with a foreign sound."""
    for sound, names in _BY_SOUND.items():
        if sound not in item.made:
            continue
        try:
            video = OpenVideo(item.made[sound], seconds)
            if not video.fits(place):
                raise Unmeasurable(f"the video with {sound} sound has another shape")
            made = _clip(item, video, place, judge)
            if sound is Sound.SILENT:
                _silence(found, made, reference or clip)
            else:
                _foreign(found, made, reference, why, judge)
        except Unmeasurable as error:
            found.reasons.update({name: str(error) for name in names if name not in found.values})
        except UNUSABLE as error:
            found.reasons.update(dict.fromkeys(names, _lose(lost, item.made[sound], f"{sound} video", error)))


_BY_SOUND = {
    sound: tuple(name for name, metric in METRICS.items() if metric.sound is sound)
    for sound in (Sound.SILENT, Sound.FOREIGN)
}


def _silence(found: Measured, made: AlignedClip, speaks: AlignedClip) -> None:
    """speaks: the original, or, without one, the video with its own sound."""
    count = min(len(made.frames), len(speaks.frames))
    silent, spoken = opening_curve(made.points[:count]), opening_curve(speaks.points[:count])
    if spoken.mean() < _LEAST_OPENING:
        found.reasons["silent_opening"] = "the mouth that speaks is closed, too"
    else:
        found.values["silent_opening"] = float(silent.mean() / spoken.mean())
    if count < FPS:
        found.reasons["silent_movement"] = "shorter than 1 s"
    elif movement(spoken) < LEAST_MOVEMENT:
        found.reasons["silent_movement"] = "the mouth that speaks does not move either"
    else:
        found.values["silent_movement"] = movement(silent) / movement(spoken)


def _foreign(found: Measured, made: AlignedClip, reference: AlignedClip | None, why: str, judge: Judge) -> None:
    if reference is None:
        found.reasons["leak"] = why
    else:
        count = min(len(made.frames), len(reference.frames))
        curves = opening_curve(made.points[:count]), opening_curve(reference.points[:count])
        try:
            found.values["leak"] = leak(*curves)
        except ValueError as error:
            found.reasons["leak"] = str(error)
    found.values["foreign_sync_confidence"] = judge.sync(made).confidence


def _words(error: Exception) -> str:
    return str(getattr(error, "detail", None) or error)


def judged_seconds(clip: AlignedClip | None) -> float:
    return 0.0 if clip is None else len(clip.frames) / FPS


def upright(frames: np.ndarray) -> np.ndarray:
    """The crop as people look: uint8 [T, 256, 192, 3], from the square that models see."""
    import cv2

    return np.stack([cv2.resize(frame, (192, 256), interpolation=cv2.INTER_AREA) for frame in frames])
