"""Whose lips are made new: per shot, from how well each face fits the old sound, or from its size."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipforge.pipeline.infer.usable import TrackMeasures

SAME_OFFSET = 1
"""Frames at 25 fps. Stretches of one video in which the right face is scored agree on the offset within this."""
LISTENS_BELOW = 0.6
"""A face that speaks reads higher than this share of a match's confidence at the video's own offset; one that reads
lower there, and is no match at another offset, listens."""
JUDGED_FRAMES, JUDGED_SPEECH, JUDGED_HEIGHT_PX = 75, 0.5, 100.0
"""Only a stretch of at least 3 s, half of it speech, of a face of this height shows that somebody listens: below that,
faces that speak may read like chance (docs/inference_faces.md)."""


@dataclass(frozen=True)
class StretchScore:
    """How well a face fits the old sound, in a stretch of up to 4 s."""

    start_frame: int
    """At 25 fps."""
    num_frames: int
    confidence: float
    offset_frames: int
    speech_ratio: float
    """Share of the time in which somebody speaks, seen or not."""


@dataclass(frozen=True)
class Choice:
    """What is drawn."""

    tracks: dict[int, list[int]]
    """By shot: numbers of the tracks that get new lips. A shot of listeners has none."""
    notes: list[str]
    """What a person should know, in whole sentences."""


Scores = Mapping[int, Sequence[StretchScore]]
"""By track number."""


def choose_faces(
    how: str, tracks: Sequence[TrackMeasures], scores: Scores, min_confidence: float, picture: Path | None = None
) -> Choice:
    """how: speaker, largest, all or track:N; or track:N,M,..., as a number is one face in one shot.

    scores: from `SyncStretches`; empty without an old sound.
    min_confidence: of a match, the profile's `min_sync_confidence`. Raises ValueError for another `how` or N, naming
    those that fit and the picture that shows the numbers.
    """
    shots: dict[int, list[TrackMeasures]] = {}
    for track in tracks:
        shots.setdefault(track.shot_index, []).append(track)
    if how == "all":
        return Choice({shot: [track.number for track in those] for shot, those in shots.items()}, [])
    if how == "largest":
        return Choice({shot: [_largest(those).number] for shot, those in shots.items()}, [])
    if how == "speaker":
        return _speakers(shots, scores, min_confidence)
    found = re.fullmatch(r"track:(\d{1,9}(?:,\d{1,9})*)", how)
    if found is None:
        raise ValueError(f"face={how}: expected speaker, largest, all or track:N, with N the number of a face")
    shot_of = {track.number: track.shot_index for track in tracks}
    chosen: dict[int, list[int]] = {shot: [] for shot in shots}
    for number in dict.fromkeys(map(int, found[1].split(","))):
        if number not in shot_of:
            where = f"; {picture} shows them" if picture else ""
            raise ValueError(f"face={how}: no face has the number {number}; there {_there_are(len(tracks))}{where}")
        chosen[shot_of[number]].append(number)
    return Choice(chosen, [])


def common_offset(scores: Scores, min_confidence: float) -> int | None:
    """The offset that most of the evidence of a whole video agrees on, in frames at 25 fps. None: too little does."""
    matches = [one for those in scores.values() for one in those if one.confidence >= min_confidence]
    weights = np.array([one.confidence * one.num_frames for one in matches])
    offsets = np.array([one.offset_frames for one in matches])
    if len(matches) == 0:
        return None
    support = {int(at): weights[np.abs(offsets - at) <= SAME_OFFSET].sum() for at in np.unique(offsets)}
    best = max(support, key=lambda at: (support[at], -abs(at)))
    return best if support[best] > 0.5 * weights.sum() else None


def _speakers(shots: Mapping[int, list[TrackMeasures]], scores: Scores, min_confidence: float) -> Choice:
    offset = common_offset(scores, min_confidence)
    evidence = {track: _evidence(those, offset) for track, those in scores.items()}
    matched = {
        shot for shot, those in shots.items() if any(_speaks(one, scores, offset, min_confidence) for one in those)
    }
    chosen: dict[int, list[int]] = {}
    num_listening = num_by_size = num_in_turn = 0
    for shot, those in shots.items():
        if matched - {shot} and all(_listens(track, scores, offset, min_confidence) for track in those):
            chosen[shot] = []
            num_listening += 1
        elif shot in matched:
            best = max(those, key=lambda track: (evidence.get(track.number, 0.0), _area(track), -track.number))
            chosen[shot] = [best.number]
            num_in_turn += any(_speaks(track, scores, offset, min_confidence) for track in those if track is not best)
        else:
            chosen[shot] = [_largest(those).number]
            num_by_size += len(those) > 1
    return Choice(chosen, _notes(scores, matched, num_listening, num_by_size, num_in_turn))


def _evidence(scores: Sequence[StretchScore], offset: int | None) -> float:
    """Confidence times frames of speech, of the stretches whose offset is the video's own."""
    return sum(
        one.confidence * one.num_frames * one.speech_ratio
        for one in scores
        if offset is None or abs(one.offset_frames - offset) <= SAME_OFFSET
    )


def _at_offset(one: StretchScore, offset: int | None) -> bool:
    return offset is None or abs(one.offset_frames - offset) <= SAME_OFFSET


def _speaks(track: TrackMeasures, scores: Scores, offset: int | None, min_confidence: float) -> bool:
    """In one stretch at least, the face matches the old sound."""
    return any(one.confidence >= min_confidence and _at_offset(one, offset) for one in scores.get(track.number, ()))


def _listens(track: TrackMeasures, scores: Scores, offset: int | None, min_confidence: float) -> bool:
    """Somebody else speaks while this face is seen: it was judged, and fits nowhere."""
    own = scores.get(track.number, ())
    judged = any(one.num_frames >= JUDGED_FRAMES and one.speech_ratio >= JUDGED_SPEECH for one in own)
    fits = any(one.confidence >= min_confidence * (LISTENS_BELOW if _at_offset(one, offset) else 1) for one in own)
    return judged and not fits and track.height_px >= JUDGED_HEIGHT_PX


def _notes(scores: Scores, matched: set[int], num_listening: int, num_by_size: int, num_in_turn: int) -> list[str]:
    notes = []
    if num_by_size and not matched:
        why = "no face fits the old sound" if scores else "there is no old sound to tell who speaks"
        notes.append(f"The largest face of each shot gets new lips, because {why}; choose with --face track:N.")
    elif num_by_size:
        notes.append(f"In {_shots(num_by_size)} nobody fits the old sound: the largest face gets new lips there.")
    if num_listening:
        notes.append(f"In {_shots(num_listening)} whoever is seen listens while another speaks, and stays as they are.")
    if num_in_turn:
        notes.append(
            f"In {_shots(num_in_turn)} several people speak; who speaks most gets new lips; choose with --face track:N."
        )
    return notes


def _shots(count: int) -> str:
    return "one shot" if count == 1 else f"{count} shots"


def _there_are(count: int) -> str:
    if count == 0:
        return "is no face in the video"
    return "is only face 1" if count == 1 else f"are faces 1 to {count}"


def _area(track: TrackMeasures) -> float:
    """Median area times the number of frames: who is seen large, and for long."""
    box = track.rows["box"]
    return float(np.median((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))) * len(box)


def _largest(tracks: Sequence[TrackMeasures]) -> TrackMeasures:
    return max(tracks, key=lambda track: (_area(track), -track.number))
