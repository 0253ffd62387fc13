"""The page's sections on everything but clean clips: turned or small faces, changed clips, several faces, every video."""

from collections.abc import Sequence

from benchmarks.lip_sync.cases import Case, Change, verdict
from benchmarks.lip_sync.clips import CLEAN
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.markdown import number, percent, seconds, table
from lipforge.model.sync.score import SyncScore


def faces_section(evidence: Evidence) -> str:
    return f"""## Turned heads and small faces

Natural speech of one person, windows of {seconds(117)}. Faces turned to full profile are not among the videos.

{table(_CHANGE_HEADER, _change_rows(evidence.by_face))}"""


def changes_section(evidence: Evidence) -> str:
    return f"""## Worse sound, worse pictures, other voices

The clean videos changed in one way; windows of {seconds(117)}. `kept` is at the default threshold: it should be low where the voice is not
the face's.

{table(_CHANGE_HEADER, _change_rows(evidence.sounds))}

The beginning of each, encoded and followed again:

{table(_CHANGE_HEADER, _change_rows(evidence.pictures))}"""


def _change_rows(changes: Sequence[Change]) -> list[list[str]]:
    return [
        [
            change.name,
            f"{change.num_windows} / {change.num_people}",
            number(change.confidence, 1),
            f"{number(change.within_1)} / {number(change.within_2)}",
            percent(change.kept),
        ]
        for change in changes
    ]


_CHANGE_HEADER = ["", "windows / people", "median confidence", "offset within 1 / 2", "kept"]


def several_section(evidence: Evidence, folder: str) -> str:
    rows = []
    for turn in evidence.turns:
        pieces = [f"{begin_s:g} s: {_piece(score, evidence.judge.min_confidence)}" for begin_s, score in turn.pieces]
        track = turn.track
        rows.append(
            [
                track.name,
                f"{track.points[:, :, 0].mean():.0f}",
                f"{track.eyes_px:.0f}",
                f"{turn.score.confidence:.1f} at {turn.score.offset_frames:+d}",
                ", ".join(pieces),
            ]
        )
    header = [
        "face (track, start)",
        "x in the picture",
        "eyes, px",
        "whole track: confidence at offset",
        "clips of 5 s: confidence at offset, kept in bold",
    ]
    return f"""## Several faces: who speaks

Each face with the one sound of its video. Each point of a line is one second: how much better lips and sound fit at the video's offset (that
of the face that fits best) than at the median of all offsets. Who speaks is above 0. Where people take turns, no face says all of a long clip, and
short clips tell more than the whole.

![Who speaks when]({folder}/turns.svg)

{table(header, rows)}"""


def _piece(score: SyncScore, min_confidence: float) -> str:
    mark = "**" if verdict(score, 1.0, min_confidence) == "kept" else ""
    return f"{mark}{score.confidence:.1f} at {score.offset_frames:+d}{mark}"


def others_section(evidence: Evidence) -> str:
    shown = [case for case in evidence.whole if case.kind != "several faces"]
    shown.sort(key=lambda case: (case.kind != CLEAN, case.kind, case.track.name))
    rows = [[case.kind, *_case_row(case)] for case in shown]
    return f"""## Every video, once

From its first usable frame to its last, with its own sound. The verdict is that of `lipforge prepare` at its defaults, length, size and
quality of the picture apart: a clip without speech is refused before its confidence matters. Generated video is made to follow its sound, and
is not told from real video by this measure.

{table(["what it is", *_CASE_HEADER], rows)}

No face for 2 s, no sound, or too short: {", ".join(evidence.unusable)}."""


_CASE_HEADER = [
    "video (track, start)",
    "length, s",
    "eyes, px",
    "turned",
    "speech",
    "confidence",
    "offset",
    "reference",
    "verdict",
]


def _case_row(case: Case) -> list[str]:
    track = case.track
    return [
        track.name,
        f"{track.num_frames / 25:.1f}",
        f"{track.eyes_px:.0f}",
        f"{track.yaw_deg:+.0f}",
        percent(case.speech_ratio),
        number(case.score.confidence, 1),
        f"{case.score.offset_frames:+d}",
        "-" if track.reference is None else f"{track.reference:+d}",
        case.verdict,
    ]
