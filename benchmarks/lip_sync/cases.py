"""Scores of cases beyond the promise: other faces, changed audio, changed video."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.lip_sync import media as made
from benchmarks.lip_sync.clips import CLEAN, MARGIN, Follower, Track, eyes_px, yaw_deg
from benchmarks.lip_sync.measures import Scorer, Window, windows
from lipforge.model.audio.speech import SpeechDetector
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.sync.builtin import RECEPTIVE_FRAMES
from lipforge.model.sync.score import SyncScore
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.publish.decide import decide

YAW_BINS_DEG = (0, 10, 20, 30, 90)
PIECE = 125
"""Frames of a clip of several faces."""
EYES_BINS_PX = (0, 40, 60, 120, 1000)


@dataclass(frozen=True)
class Case:
    """One whole track, with its own audio."""

    track: Track
    kind: str
    score: SyncScore
    speech_ratio: float
    verdict: str


def verdict(score: SyncScore, num_frames: int, speech_ratio: float, min_confidence: float) -> str:
    """Verdict of `lipforge prepare` at its defaults, ignoring length, image quality and face size."""
    thresholds = Thresholds(
        min_clip_s=0,
        min_sync_confidence=min_confidence,
        short_sync_factor=PROFILES["builtin"].short_sync_factor,
        sync_model="scorer",
        min_quality=0,
        quality_model="none",
    )
    measures = {
        "start_frame": 0,
        "end_frame": num_frames,
        "speech_ratio": speech_ratio,
        "sync_confidence": score.confidence,
        "av_offset_frames": score.offset_frames,
        "sync_model": "scorer",
        "quality": 100.0,
        "quality_model": "none",
    }
    outcome = decide(measures, thresholds)
    return "kept" if outcome.reason is None else str(outcome.reason)


def whole_tracks(scorer: Scorer, kinds: dict[Track, str]) -> list[Case]:
    """Every track once, from its first frame to its last."""
    speech = SpeechDetector()
    cases = []
    for track, kind in kinds.items():
        score = scorer.score(track)
        ratio = speech.speech_ratio(track.full_audio[MARGIN * SAMPLES_PER_FRAME : -MARGIN * SAMPLES_PER_FRAME])
        cases.append(Case(track, kind, score, ratio, verdict(score, track.num_frames, ratio, scorer.min_confidence)))
    return cases


@dataclass(frozen=True)
class Change:
    """The effect of one change to clean clips, over windows of one length."""

    name: str
    num_windows: int
    num_speakers: int
    confidence: float
    """Median."""
    within_1: float
    """Share of offsets within 1 frame of the reference; NaN if there is none."""
    within_2: float
    kept: float
    """Share at or above the default threshold."""


def _change(
    scorer: Scorer, name: str, parts: Sequence[Window], audio_of_parts: Sequence[np.ndarray], match: bool = True
) -> Change:
    """match: the audio belongs to the video, so there is an offset to find."""
    scores = [
        scorer.match(scorer.embed_lips(part), scorer.embed_audio(audio))
        for part, audio in zip(parts, audio_of_parts, strict=True)
    ]
    errors = [
        abs(score.offset_frames - part.track.reference)
        for score, part in zip(scores, parts, strict=True)
        if match and part.track.reference is not None
    ]
    confidence = np.array([score.confidence for score in scores])
    return Change(
        name,
        len(parts),
        len({part.track.speaker for part in parts}),
        float(np.median(confidence)),
        float(np.mean(np.array(errors) <= 1)) if errors else float("nan"),
        float(np.mean(np.array(errors) <= 2)) if errors else float("nan"),
        float(np.mean(confidence >= scorer.min_confidence)),
    )


def changed_audio(scorer: Scorer, clean: Sequence[Track], listeners: Sequence[Track], length: int) -> Iterator[Change]:
    """Clean tracks with degraded or replaced audio. listeners: faces that do not speak."""

    def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
        tracks = [replace(track, full_audio=change(track.full_audio)) for track in clean]
        parts = windows(tracks, length)
        return _change(scorer, name, parts, [part.audio() for part in parts])

    parts = windows(clean, length)
    yield changed("as it is", lambda audio: audio)
    for snr_db in (20, 10, 0):
        yield changed(f"white noise, {snr_db} dB SNR", lambda audio, snr_db=snr_db: made.with_noise(audio, snr_db, 1))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield changed("MP3 at 32 kbit/s", lambda audio: made.through_codec(audio, place, "mp3", "-b:a", "32k"))
        yield changed("8 kHz sampling rate", lambda audio: made.through_codec(audio, place, "wav", "-ar", "8000"))
    silence = np.zeros((length + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, np.float32)
    yield _change(scorer, "digital silence", parts, [silence] * len(parts), match=False)
    still = [replace(track, points=np.repeat(track.points[:1], track.num_frames, axis=0)) for track in clean]
    still = [replace(track, mouths=np.repeat(track.mouths[:1], track.num_frames, axis=0)) for track in still]
    parts = windows(still, length)
    yield _change(scorer, "a still image of the face", parts, [part.audio() for part in parts], match=False)
    yield _off_screen(scorer, "a face that talks, another speaker's voice", clean, clean, length)
    yield from partly_off_screen(scorer, clean, length)
    if listeners:
        yield _off_screen(scorer, "a face that is silent, another speaker's voice", listeners, clean, length)


def partly_off_screen(scorer: Scorer, clean: Sequence[Track], length: int) -> Iterator[Change]:
    """Clips of natural speech with another speaker's voice for part of the time."""
    parts = windows(clean, length)
    for name, share in (("second half", 1 / 2), ("last third", 2 / 3), ("last fifth", 4 / 5)):
        begin = round((SYNC_MARGIN_FRAMES + share * length) * SAMPLES_PER_FRAME)
        pairs = [
            (face, np.concatenate([face.audio()[:begin], voice.audio()[begin:]]))
            for face in parts
            for voice in parts
            if face.track.speaker != voice.track.speaker
        ]
        yield _change(scorer, f"another speaker's voice in the {name}", *zip(*pairs, strict=True), match=False)


def _off_screen(scorer: Scorer, name: str, faces: Sequence[Track], voices: Sequence[Track], length: int) -> Change:
    pairs = [
        (face, voice.audio())
        for face in windows(faces, length)
        for voice in windows(voices, length)
        if face.track.speaker != voice.track.speaker
    ]
    parts, audio_of_parts = zip(*pairs, strict=True)
    return _change(scorer, name, parts, audio_of_parts, match=False)


def changed_video(
    scorer: Scorer, follower: Follower, clean: Sequence[Track], sources: Path, length: int
) -> Iterator[Change]:
    """The beginning of the clean videos, re-encoded and followed again."""
    ways = {
        "H.264, crf 35": {"crf": 35},
        "15 frames per second": {"fps": 15},
        "30 frames per second": {"fps": 30},
    }
    with tempfile.TemporaryDirectory() as folder:
        base, path = Path(folder) / "base.mkv", Path(folder) / "changed.mkv"
        found: dict[str, list[Track]] = {name: [] for name in ways}
        for track in clean:
            made.base_file(sources / track.file, base, 1.3 * length / 25)
            for name, options in ways.items():
                made.encode_video(base, path, **options)
                found[name] += [replace(again, file=track.file) for again in follower.tracks(path, track.about)]
        for name, tracks in found.items():
            parts = windows(tracks, length)
            yield _change(scorer, name, parts, [part.audio() for part in parts])


def by_face(scorer: Scorer, kinds: dict[Track, str], length: int) -> list[Change]:
    """Windows of one natural speaker, by how far the head is turned and by how large the face is."""
    tracks = [track for track, kind in kinds.items() if kind in (CLEAN, "small face", "turned head")]
    parts = windows(tracks, length)
    turned = [abs(yaw_deg(part.points)) for part in parts]
    large = [eyes_px(part.points) for part in parts]
    bins = [(f"head turned by {low} to {high} degrees", turned, low, high) for low, high in pairwise(YAW_BINS_DEG)]
    bins += [(f"eyes {low} to {high} px apart", large, low, high) for low, high in pairwise(EYES_BINS_PX)]
    found = []
    for name, values, low, high in bins:
        chosen = [part for part, value in zip(parts, values, strict=True) if low <= value < high]
        if chosen:
            found.append(_change(scorer, name, chosen, [part.audio() for part in chosen]))
    return found


@dataclass(frozen=True, eq=False)
class Turn:
    """When one face of several speaks."""

    track: Track
    score: SyncScore
    offset_frames: int
    """Offset of the video's audio, from the face that matches it best."""
    times_s: np.ndarray
    """Middle of each second scored, in the video."""
    similarity: np.ndarray
    """Of lips and audio in that second at the video's offset, above the median of all offsets."""
    pieces: list[tuple[float, SyncScore]]
    """Consecutive clips of PIECE frames: start in the video in seconds, and score."""


def turns(scorer: Scorer, tracks: Sequence[Track]) -> list[Turn]:
    """Similarity second by second, at each video's offset."""
    scores = {track: scorer.score(track) for track in tracks}
    found = []
    for track, score in scores.items():
        closest = min((scores[other] for other in tracks if other.file == track.file), key=lambda one: one.distance)
        length = 25 + RECEPTIVE_FRAMES - 1  # frames that give one second of vectors
        starts = range(0, track.num_frames - length + 1, 10)
        curves = [scorer.score(track, start, length).curve for start in starts]
        rises = [curve[closest.offset_frames + SYNC_MARGIN_FRAMES] - np.median(curve) for curve in curves]
        times_s = [(track.start_frame + start + length / 2) / 25 for start in starts]
        pieces = [
            ((track.start_frame + start) / 25, scorer.score(track, start, PIECE))
            for start in range(0, track.num_frames - PIECE + 1, PIECE)
        ]
        found.append(Turn(track, score, closest.offset_frames, np.array(times_s), np.array(rises), pieces))
    return found


@dataclass(frozen=True)
class Chance:
    """Confidence of faces with audio of other speakers."""

    length_s: float
    num_faces: int
    confidence: np.ndarray
    """float [P], of all pairs of a face and a stretch of audio."""


def chance_by_length(scorer: Scorer, kinds: dict[Track, str], lengths_s: Sequence[float]) -> list[Chance]:
    """Faces of natural speech with the joined voices of the other clean speakers."""
    faces = [track for track, kind in kinds.items() if kind in (CLEAN, "small face", "several faces", "turned head")]
    voices = {track.speaker: track.full_audio for track, kind in kinds.items() if kind == CLEAN}
    found = []
    for length_s in lengths_s:
        length = round(length_s * 25)
        values, scored = [], set()
        for track in faces:
            audio = np.concatenate([voice for speaker, voice in voices.items() if speaker != track.speaker])
            span = (length + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
            begins = np.linspace(0, len(audio) - span, 12).astype(int)
            for part in windows([track], length)[:4]:
                lips = scorer.embed_lips(part)
                scored.add(track)
                values += [
                    scorer.match(lips, scorer.embed_audio(audio[begin : begin + span])).confidence for begin in begins
                ]
        found.append(Chance(length_s, len(scored), np.array(values)))
    return found
