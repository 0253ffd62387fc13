"""The page's sections on clean clips: promise and aim, clip length, each speaker, thresholds, chance."""

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
    refused_at,
    refused_where_kept,
    share,
    within,
)


@dataclass(frozen=True)
class Goal:
    name: str
    statistic: Statistic
    promised: float
    aimed_at: float
    same_person: bool = False
    """Compares with the same person at another time."""


GOALS = (
    Goal("planted shifts found within 1 frame", within(1), 0.85, 0.95),
    Goal("planted shifts found within 2 frames", within(2), 0.95, 0.99),
    Goal("AUC, own sound against other people's", auc(), 0.92, 0.97),
    Goal("AUC, own sound against the same person at another time", auc(same_person=True), 0.92, 0.97, True),
    Goal("other people's sound refused where 95 % of own is kept", refused_where_kept(0.95), 0.70, 0.90),
    Goal(
        "same person at another time refused where 95 % of own is kept",
        refused_where_kept(0.95, True),
        0.70,
        0.90,
        True,
    ),
)


def promise_section(evidence: Evidence) -> str:
    parts = []
    for length in (125, 117):
        scores = evidence.by_length[length]
        same_people = len(set(scores.person[scores.same.picture]))
        rows = []
        for goal in GOALS:
            found = estimate(goal.statistic, scores)
            verdicts = [met_or_not(found.value, wanted) for wanted in (goal.promised, goal.aimed_at)]
            rows.append(
                [
                    goal.name,
                    f"{goal.promised:g}: {verdicts[0]}",
                    f"{goal.aimed_at:g}: {verdicts[1]}",
                    with_interval(found, same_people if goal.same_person else len(scores.people)),
                    number(found.per_person, 3),
                ]
            )
        everyone, default = np.ones(len(scores.own)), evidence.judge.min_confidence
        for name, statistic in (
            ("own sound kept", kept_at(default)),
            ("other people's sound refused", refused_at(default)),
            ("same person at another time refused", refused_at(default, True)),
        ):
            rows.append([f"{name} at the default threshold", "", "", number(statistic(scores, everyone), 3), ""])
        header = ["", "promise", "aim", "all windows (95 % interval over people)", "each person counted once"]
        parts.append(
            f"**{seconds(length)}**: {len(scores.own)} windows of {len(scores.people)} people, "
            f"{len(scores.other.confidence)} pairs with other people's sound, {_same_words(scores)}.\n\n{table(header, rows)}"
        )
    return (
        "## Promise and aim\n\nThe promise is for 5 s; several videos are a little shorter, so 4.7 s has more people.\n\n"
        + "\n\n".join(parts)
    )


def met_or_not(value: float, wanted: float) -> str:
    if np.isnan(value):
        return "not measured"
    return "met" if value >= wanted else "**not met**"


def _same_words(scores: Scores) -> str:
    people = len(set(scores.person[scores.same.picture]))
    return f"{len(scores.same.confidence)} with the same person's at another time ({num_speakers_text(people)})"


def lengths_section(evidence: Evidence) -> str:
    threshold = evidence.judge.min_confidence
    rows = []
    for length, scores in evidence.by_length.items():
        everyone = np.ones(len(scores.own))

        def values(*statistics: Statistic, scores: Scores = scores, everyone: np.ndarray = everyone) -> str:
            return " / ".join(number(statistic(scores, everyone)) for statistic in statistics)

        rows.append(
            [
                seconds(length),
                f"{len(scores.own)} / {len(scores.people)}",
                values(within(0), within(1), within(2)),
                values(auc(), auc(True)),
                values(refused_where_kept(0.95), refused_where_kept(0.95, True)),
                values(kept_at(threshold)),
                values(refused_at(threshold), refused_at(threshold, True)),
            ]
        )
    header = [
        "length",
        "windows / people",
        "offset within 0 / 1 / 2",
        "AUC: others / same person",
        "refused at 95 % kept: others / same",
        f"kept at {threshold:g}",
        f"refused at {threshold:g}: others / same",
    ]
    errors = evidence.by_length[75].errors
    errors = errors[(errors != Scores.OUT) & (np.abs(errors) <= 3)]
    return f"""## By length

{table(header, rows)}

References are whole frames and themselves agreed only within one frame, so exact hits say little. On average the scorer reads
{errors.mean():+.2f} frames from the references (3 s, misses beyond 3 frames apart)."""


def people_section(evidence: Evidence) -> str:
    scores = evidence.by_length[117]
    tracks = {track.speaker: track for track, kind in evidence.kinds.items() if kind == CLEAN}
    threshold = evidence.judge.min_confidence
    rows = []
    for index, speaker in enumerate(scores.people):
        chosen = (scores.person == index).astype(float)
        track = tracks[speaker]
        pairs = scores.other
        refused = [share(pairs.confidence < threshold, chosen[side]) for side in (pairs.picture, pairs.sound)]
        own = scores.own[scores.person == index]
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
                " / ".join(percent(value) for value in refused),
            ]
        )
    header = [
        "person (one video each)", "language", "windows", "eyes, px", "turned, degrees", "reference offset",
        "within 0 / 1 / 2", "confidence: least / median", "mismatches refused: with this face / with this voice",
    ]  # fmt: skip
    short = sorted(
        track.speaker for track, kind in evidence.kinds.items() if kind == CLEAN and track.speaker not in scores.people
    )
    late = f"{len(SHIFTS)} shifts of {SHIFTS[0]} to {SHIFTS[-1]} frames"
    text = (
        f"## Each person\n\nWindows of {seconds(117)}, each with {late} planted in its sound.\n\n{table(header, rows)}"
    )
    return text + (f"\n\nToo short for this table, in the shorter windows only: {', '.join(short)}." if short else "")


def thresholds_section(evidence: Evidence, folder: str) -> str:
    chances = {chance.length_s: chance for chance in evidence.chances}
    lengths = [length for length in (75, 125, 250) if length in evidence.by_length]
    default = evidence.judge.min_confidence
    rows = []
    for threshold in sorted({*np.arange(1.0, 4.01, 0.25).tolist(), default}):
        cells = []
        for length in lengths:
            scores, chance = evidence.by_length[length], chances[length / 25]
            kept = kept_at(threshold)(scores, np.ones(len(scores.own)))
            cells.append(f"{percent(kept)} / {percent(float(np.mean(chance.confidence < threshold)))}")
        mark = "**" if threshold == default else ""
        rows.append([f"{mark}{threshold:.2f}{mark}", *cells])
    header = ["threshold", *(f"{seconds(length)}: kept / refused" for length in lengths)]
    return f"""## The threshold

Share of clean windows kept with their own sound (solid), and share of mismatches refused (dashed). Mismatches here are the faces of the
next section, which are more, and harder: small and turned ones are among them.

![Kept and refused by threshold]({folder}/thresholds.svg)

{table(header, rows)}"""


def chance_section(evidence: Evidence, folder: str) -> str:
    default = evidence.judge.min_confidence
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
    header = ["length", "faces", "pairs", "confidence: 5 % / median / 95 %", f"refused at {default:g}"]
    return f"""## Does chance read the same for short and long clips?

Faces of natural speech under a sound made of other people's voices, one after another. One threshold means the same at every length where
the upper line is level; where it falls, more mismatches are refused.

![Chance by length]({folder}/chance.svg)

{table(header, rows)}"""
