"""Sections of the page beyond clean clips: turned or small faces, changed clips, several faces, every video."""

from collections.abc import Sequence

from benchmarks.lip_sync.cases import PIECE, Case, Change, verdict
from benchmarks.lip_sync.clips import CLEAN
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.markdown import number, percent, seconds, table
from lipforge.model.sync.score import SyncScore


def faces_section(evidence: Evidence) -> str:
    return f"""## Turned heads and small faces

Natural speech of one speaker, windows of {seconds(117)}. No video shows a full profile.

{table(_CHANGE_HEADER, _change_rows(evidence.by_face))}"""


def changes_section(evidence: Evidence) -> str:
    return f"""## Degraded audio, degraded video, other voices

The clean videos with one change each; windows of {seconds(117)}. `kept` is at the default threshold: it should be low
where the voice is another speaker's.

{table(_CHANGE_HEADER, _change_rows(evidence.changed_audio))}

The beginning of each, re-encoded and followed again:

{table(_CHANGE_HEADER, _change_rows(evidence.changed_video))}"""


def _change_rows(changes: Sequence[Change]) -> list[list[str]]:
    return [
        [
            change.name,
            f"{change.num_windows} / {change.num_speakers}",
            number(change.confidence, 1),
            f"{number(change.within_1)} / {number(change.within_2)}",
            percent(change.kept),
        ]
        for change in changes
    ]


_CHANGE_HEADER = ["", "windows / speakers", "median confidence", "offset within 1 / 2", "kept"]


def several_section(evidence: Evidence, folder: str) -> str:
    rows = []
    for turn in evidence.turns:
        pieces = [f"{begin_s:g} s: {_piece(score, evidence.scorer.min_confidence)}" for begin_s, score in turn.pieces]
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
        "x in the frame",
        "eyes, px",
        "whole track: confidence at offset",
        "clips of 5 s: confidence at offset, kept in bold",
    ]
    return f"""## Several faces: who speaks

Each face with the audio of its video. A point is one second: the similarity of lips and audio at the video's offset
(from the face that matches best), above the median of all offsets. The speaker is above 0. Where speakers take turns,
no face speaks all of a long clip, and short clips say more than the whole.

![Who speaks when]({folder}/turns.svg)

{table(header, rows)}"""


def _piece(score: SyncScore, min_confidence: float) -> str:
    mark = "**" if verdict(score, PIECE, 1.0, min_confidence) == "kept" else ""
    return f"{mark}{score.confidence:.1f} at {score.offset_frames:+d}{mark}"


def others_section(evidence: Evidence) -> str:
    shown = [case for case in evidence.whole if case.kind != "several faces"]
    shown.sort(key=lambda case: (case.kind != CLEAN, case.kind, case.track.name))
    rows = [[case.kind, *_case_row(case)] for case in shown]
    return f"""## Every video, once

From its first usable frame to its last, with its own audio. The verdict is that of `lipforge prepare` at its defaults,
ignoring length, face size and image quality: a clip without speech is rejected before its confidence matters. Generated
video is made to follow its audio, so this measure does not tell it from real video.

{table(["what it is", *_CASE_HEADER], rows)}

No face for 2 s, no audio, or too short: {", ".join(evidence.unusable)}."""


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
