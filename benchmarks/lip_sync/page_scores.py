"""Sections of the page on clean clips: promise and aim, clip length, each speaker, thresholds, chance."""

from dataclasses import dataclass

import numpy as np

from benchmarks.lip_sync.clips import CLEAN
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.markdown import num_speakers_text, number, percent, seconds, table, with_interval
from benchmarks.lip_sync.measures import (
    SHIFTS,
    Scores,
    Statistic,
    auc,
    estimate,
    kept_at,
    rejected_at,
    rejected_where_kept,
    share,
    within,
)


@dataclass(frozen=True)
class Goal:
    name: str
    statistic: Statistic
    promised: float
    aimed_at: float
    same_speaker: bool = False
    """Compares with the same speaker at another time."""


GOALS = (
    Goal("planted shifts found within 1 frame", within(1), 0.85, 0.95),
    Goal("planted shifts found within 2 frames", within(2), 0.95, 0.99),
    Goal("AUC, own audio against other speakers'", auc(), 0.92, 0.97),
    Goal("AUC, own audio against the same speaker at another time", auc(same_speaker=True), 0.92, 0.97, True),
    Goal("other speakers' audio rejected where 95 % of own is kept", rejected_where_kept(0.95), 0.70, 0.90),
    Goal(
        "same speaker at another time rejected where 95 % of own is kept",
        rejected_where_kept(0.95, True),
        0.70,
        0.90,
        True,
    ),
)


def promise_section(evidence: Evidence) -> str:
    parts = []
    for length in (125, 117):
        scores = evidence.by_length[length]
        num_same = len(set(scores.speaker_index[scores.same.lips]))
        rows = []
        for goal in GOALS:
            found = estimate(goal.statistic, scores)
            verdicts = [met_or_not(found.value, wanted) for wanted in (goal.promised, goal.aimed_at)]
            rows.append(
                [
                    goal.name,
                    f"{goal.promised:g}: {verdicts[0]}",
                    f"{goal.aimed_at:g}: {verdicts[1]}",
                    with_interval(found, num_same if goal.same_speaker else len(scores.unique_speakers)),
                    number(found.per_speaker, 3),
                ]
            )
        equal, default = np.ones(len(scores.own)), evidence.scorer.min_confidence
        for name, statistic in (
            ("own audio kept", kept_at(default)),
            ("other speakers' audio rejected", rejected_at(default)),
            ("same speaker at another time rejected", rejected_at(default, True)),
        ):
            rows.append([f"{name} at the default threshold", "", "", number(statistic(scores, equal), 3), ""])
        header = ["", "promise", "aim", "all windows (95 % interval over speakers)", "each speaker counted once"]
        parts.append(
            f"**{seconds(length)}**: {len(scores.own)} windows of {len(scores.unique_speakers)} speakers, "
            f"{len(scores.other.confidence)} pairs with other speakers' audio, {_same_speaker_text(scores)}."
            f"\n\n{table(header, rows)}"
        )
    return (
        "## Promise and aim\n\n"
        "The promise is for 5 s; several videos are a little shorter, so 4.7 s has more speakers.\n\n"
        + "\n\n".join(parts)
    )


def met_or_not(value: float, wanted: float) -> str:
    if np.isnan(value):
        return "not measured"
    return "met" if value >= wanted else "**not met**"


def _same_speaker_text(scores: Scores) -> str:
    speakers = len(set(scores.speaker_index[scores.same.lips]))
    return f"{len(scores.same.confidence)} with the same speaker's at another time ({num_speakers_text(speakers)})"


def lengths_section(evidence: Evidence) -> str:
    threshold = evidence.scorer.min_confidence
    rows = []
    for length, scores in evidence.by_length.items():
        equal = np.ones(len(scores.own))

        def values(*statistics: Statistic, scores: Scores = scores, equal: np.ndarray = equal) -> str:
            return " / ".join(number(statistic(scores, equal)) for statistic in statistics)

        rows.append(
            [
                seconds(length),
                f"{len(scores.own)} / {len(scores.unique_speakers)}",
                values(within(0), within(1), within(2)),
                values(auc(), auc(True)),
                values(rejected_where_kept(0.95), rejected_where_kept(0.95, True)),
                values(kept_at(threshold)),
                values(rejected_at(threshold), rejected_at(threshold, True)),
            ]
        )
    header = [
        "length",
        "windows / speakers",
        "offset within 0 / 1 / 2",
        "AUC: others / same speaker",
        "rejected at 95 % kept: others / same",
        f"kept at {threshold:g}",
        f"rejected at {threshold:g}: others / same",
    ]
    errors = evidence.by_length[75].errors
    errors = errors[(errors != Scores.OUT) & (np.abs(errors) <= 3)]
    return f"""## By length

{table(header, rows)}

References are whole frames, accurate to one frame, so exact hits say little. On average the scorer reads
{errors.mean():+.2f} frames from the references (3 s, without misses beyond 3 frames)."""


def people_section(evidence: Evidence) -> str:
    scores = evidence.by_length[117]
    tracks = {track.speaker: track for track, kind in evidence.kinds.items() if kind == CLEAN}
    threshold = evidence.scorer.min_confidence
    rows = []
    for index, speaker in enumerate(scores.unique_speakers):
        chosen = (scores.speaker_index == index).astype(float)
        track = tracks[speaker]
        pairs = scores.other
        rejected = [share(pairs.confidence < threshold, chosen[side]) for side in (pairs.lips, pairs.audio)]
        own = scores.own[scores.speaker_index == index]
        rows.append(
            [
                speaker,
                track.about["language"],
                f"{len(own)}",
                f"{track.eyes_px:.0f}",
                f"{track.yaw_deg:+.0f}",
                "-" if track.reference is None else f"{track.reference:+d}",
                " / ".join(number(within(frames)(scores, chosen)) for frames in (0, 1, 2)),
                f"{own.min():.1f} / {np.median(own):.1f}",
                " / ".join(percent(value) for value in rejected),
            ]
        )
    header = [
        "speaker (one video each)", "language", "windows", "eyes, px", "turned, degrees", "reference offset",
        "within 0 / 1 / 2", "confidence: lowest / median", "mismatches rejected: with this face / with this voice",
    ]  # fmt: skip
    short = sorted(
        track.speaker
        for track, kind in evidence.kinds.items()
        if kind == CLEAN and track.speaker not in scores.unique_speakers
    )
    late = f"{len(SHIFTS)} shifts of {SHIFTS[0]} to {SHIFTS[-1]} frames"
    text = (
        f"## Each speaker\n\nWindows of {seconds(117)}, each with {late} planted in its audio.\n\n{table(header, rows)}"
    )
    return text + (f"\n\nToo short for this table, in the shorter windows only: {', '.join(short)}." if short else "")


def thresholds_section(evidence: Evidence, folder: str) -> str:
    chances = {chance.length_s: chance for chance in evidence.chances}
    lengths = [length for length in (75, 125, 250) if length in evidence.by_length]
    default = evidence.scorer.min_confidence
    rows = []
    for threshold in sorted({*np.arange(1.0, 4.01, 0.25).tolist(), default}):
        cells = []
        for length in lengths:
            scores, chance = evidence.by_length[length], chances[length / 25]
            kept = kept_at(threshold)(scores, np.ones(len(scores.own)))
            cells.append(f"{percent(kept)} / {percent(float(np.mean(chance.confidence < threshold)))}")
        mark = "**" if threshold == default else ""
        rows.append([f"{mark}{threshold:.2f}{mark}", *cells])
    header = ["threshold", *(f"{seconds(length)}: kept / rejected" for length in lengths)]
    return f"""## The threshold

Share of clean windows kept with their own audio (solid), and share of mismatches rejected (dashed). Mismatches here use
the faces of the next section, which are more and harder: some are small or turned.

![Kept and rejected by threshold]({folder}/thresholds.svg)

{table(header, rows)}"""


def chance_section(evidence: Evidence, folder: str) -> str:
    default = evidence.scorer.min_confidence
    rows = [
        [
            f"{chance.length_s:g} s",
            str(chance.num_faces),
            str(len(chance.confidence)),
            " / ".join(number(float(value)) for value in np.quantile(chance.confidence, [0.05, 0.5, 0.95])),
            percent(float(np.mean(chance.confidence < default))),
        ]
        for chance in evidence.chances
    ]
    header = ["length", "faces", "pairs", "confidence: 5 % / median / 95 %", f"rejected at {default:g}"]
    return f"""## Does chance read the same for short and long clips?

Faces of natural speech with the joined voices of other speakers. A threshold means the same at every length where the
upper line is level; where it falls, more mismatches are rejected.

![Chance by length]({folder}/chance.svg)

{table(header, rows)}"""
