"""The words and tables of the lip-sync results page. Every number in it comes from the measurements it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.lip_sync.cases import Case, Chance, Change, Turn, verdict
from benchmarks.lip_sync.clips import CLEAN, MAX_YAW_DEG, MIN_EYES_PX, Track
from benchmarks.lip_sync.engine import EngineRun, Found, residuals
from benchmarks.lip_sync.measures import (
    SHIFTS,
    Estimate,
    Judge,
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
from lipforge.model.sync.score import SyncScore


@dataclass(frozen=True)
class Evidence:
    """All that the page tells."""

    judge: Judge
    kinds: dict[Track, str]
    unusable: list[str]
    """Files without a face that can be followed for 2 s, or without sound."""
    by_length: dict[int, Scores]
    """Clean windows, by length in frames."""
    whole: list[Case]
    by_face: list[Change]
    sounds: list[Change]
    pictures: list[Change]
    turns: list[Turn]
    chances: list[Chance]
    engine: EngineRun
    score_ms: float
    """CPU milliseconds for 5 s."""


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


def write_page(evidence: Evidence, out: Path) -> None:
    folder = out.with_suffix("").name
    sections = [
        _head(evidence),
        _promise(evidence),
        _lengths(evidence),
        _people(evidence),
        _thresholds(evidence, folder),
        _chance(evidence, folder),
        _faces(evidence),
        _changes(evidence),
        *([_several(evidence, folder)] if evidence.turns else []),
        _others(evidence),
        _engine(evidence, folder),
        _speed(evidence),
        _method(evidence),
    ]
    out.write_text("\n\n".join(sections) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def with_interval(found: Estimate, num_people: int) -> str:
    if np.isnan(found.value):
        return "-"
    if num_people == 1:
        return f"{found.value:.3f} (1 person: no interval)"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _seconds(length: int) -> str:
    return f"{length / 25:.2g} s"


def _head(evidence: Evidence) -> str:
    files = {track.file for track in evidence.kinds} | set(evidence.unusable)
    clean = {track.file for track, kind in evidence.kinds.items() if kind == CLEAN}
    open_to_training = sum(
        track.about["trainable"] == "yes" for track in {track.file: track for track in evidence.kinds}.values()
    )
    return f"""# What the built-in lip-sync scorer is worth

Made by `make sync-results CLIPS=FOLDER`; do not edit. The scorer is `{evidence.judge.model.name}` with the default threshold of
{evidence.judge.min_confidence:g}. [lip_sync.md](lip_sync.md) says how it works and what it was trained on. The shape of the confidence and the default
threshold were chosen with these clips in view, so what the page says of them is optimistic in the last digits; the networks never saw them.

{len(files)} real videos went in. {len(clean)} of them, each of another person, are what the promise is about ("clean"): natural sound, one person
who speaks, eyes at least {MIN_EYES_PX} px apart, head turned by at most {MAX_YAW_DEG} degrees, and never seen by training. Training may have
used {open_to_training} others; they are only in the list of every video, and marked. The rest is below too, under what it is."""


def _promise(evidence: Evidence) -> str:
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
            f"**{_seconds(length)}**: {len(scores.own)} windows of {len(scores.people)} people, "
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
    return f"{len(scores.same.confidence)} with the same person's at another time ({_people_words(people)})"


def _people_words(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _lengths(evidence: Evidence) -> str:
    threshold = evidence.judge.min_confidence
    rows = []
    for length, scores in evidence.by_length.items():
        everyone = np.ones(len(scores.own))

        def values(*statistics: Statistic, scores: Scores = scores, everyone: np.ndarray = everyone) -> str:
            return " / ".join(number(statistic(scores, everyone)) for statistic in statistics)

        rows.append(
            [
                _seconds(length),
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


def _people(evidence: Evidence) -> str:
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
        f"## Each person\n\nWindows of {_seconds(117)}, each with {late} planted in its sound.\n\n{table(header, rows)}"
    )
    return text + (f"\n\nToo short for this table, in the shorter windows only: {', '.join(short)}." if short else "")


def _thresholds(evidence: Evidence, folder: str) -> str:
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
    header = ["threshold", *(f"{_seconds(length)}: kept / refused" for length in lengths)]
    return f"""## The threshold

Share of clean windows kept with their own sound (solid), and share of mismatches refused (dashed). Mismatches here are the faces of the
next section, which are more, and harder: small and turned ones are among them.

![Kept and refused by threshold]({folder}/thresholds.svg)

{table(header, rows)}"""


def _chance(evidence: Evidence, folder: str) -> str:
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


def _faces(evidence: Evidence) -> str:
    return f"""## Turned heads and small faces

Natural speech of one person, windows of {_seconds(117)}. Faces turned to full profile are not among the videos.

{table(_CHANGE_HEADER, _change_rows(evidence.by_face))}"""


def _changes(evidence: Evidence) -> str:
    return f"""## Worse sound, worse pictures, other voices

The clean videos changed in one way; windows of {_seconds(117)}. `kept` is at the default threshold: it should be low where the voice is not
the face's.

{table(_CHANGE_HEADER, _change_rows(evidence.sounds))}

The beginning of each, encoded and followed again:

{table(_CHANGE_HEADER, _change_rows(evidence.pictures))}"""


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


def _several(evidence: Evidence, folder: str) -> str:
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


def _others(evidence: Evidence) -> str:
    shown = [case for case in evidence.whole if case.kind != "several faces"]
    shown.sort(key=lambda case: (case.kind != CLEAN, case.kind, case.track.name))
    rows = [[case.kind, *_case_row(case)] for case in shown]
    return f"""## Every video, once

From its first usable frame to its last, with its own sound. The verdict is that of `lipforge prepare` at its defaults, length, size and
quality of the picture apart: a clip without speech is refused before its confidence matters. Generated video is made to follow its sound, and
is not told from real video by this measure.

{table(["what it is", *_CASE_HEADER], rows)}

No face for 2 s, no sound, or too short: {", ".join(evidence.unusable)}."""


def _engine(evidence: Evidence, folder: str) -> str:
    run = evidence.engine
    found = [item for item in run.found if item.offset is not None]
    kept = [item for item in found if item.outcome == "kept"]
    left = np.abs([item.left for item in run.found if item.left is not None])
    off = np.abs(residuals(run))
    rows = []
    for file in sorted({item.file for item in run.found}):
        items = [item for item in run.found if item.file == file]
        rows.append(_engine_row(file, items))
    header = [
        "video",
        "in training",
        "files",
        "found within 0 / 1 / 2",
        "outcome",
        "delivered, scored again: within 0 / 1 / 2",
    ]
    ways = " and ".join(sorted({item.way for item in run.found}))
    planted = ", ".join(f"{frames:+d}" for frames in sorted({item.planted for item in run.found}))
    return f"""## Planted offsets through all of `lipforge prepare`

The sound of natural videos was moved by {planted} frames, in {ways}: {len(run.found)} candidate clips, {len(found)} measured,
{len(kept)} kept (`thresholds.max_av_offset_frames=15`). Found minus planted minus the video's own offset: within 1 frame for
{percent(float(np.mean(off <= 1)))}, within 2 for {percent(float(np.mean(off <= 2)))}.

{len(left)} delivered clips were read back from their shards and scored again, as training will see them: {percent(float(np.mean(left <= 1)))} within 1 frame
of 0. Stored sound has no margin, so only the frames 0.6 s and more from both ends are scored, with lips and mouth from the stored pictures.

![Found against planted; what is left]({folder}/planted.svg)

{table(header, rows)}"""


def _engine_row(file: str, items: Sequence[Found]) -> list[str]:
    off = np.abs([item.residual for item in items if item.residual is not None])
    left = np.abs([item.left for item in items if item.left is not None])
    outcomes: dict[str, int] = {}
    for item in items:
        outcomes[item.outcome] = outcomes.get(item.outcome, 0) + 1
    return [
        file,
        "maybe" if items[0].trainable else "no",
        str(len(items)),
        _within(off),
        ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
        _within(left),
    ]


def _within(errors: np.ndarray) -> str:
    return " / ".join(number(float(np.mean(errors <= frames))) for frames in (0, 1, 2)) if len(errors) else "-"


def _speed(evidence: Evidence) -> str:
    run = evidence.engine
    total = sum(run.stage_cpu_s.values())
    scorer = run.stage_cpu_s["measure_sync"]
    return f"""## Speed

One score of 5 s takes {evidence.score_ms:.0f} ms of CPU time on one core, {5000 / evidence.score_ms:.0f} times faster than real time, landmarks
apart. In the run above `measure_sync` took {scorer:.1f} of {total:.0f} CPU seconds of `lipforge prepare`
({100 * scorer / total:.1f} %), for {run.seconds:.0f} s of video."""


def _method(evidence: Evidence) -> str:
    return """## How it was measured

- Faces are found and followed by the same code as in `lipforge prepare`, with wider limits (clips from 2 s, faces from 30 px). The sound is
  read again from the source with a margin, so that shifts bring in real sound and not zeros.
- Windows overlap by half. A mismatch is a window's picture with the sound of a window of another person; the same person's other time begins
  so late that no tried shift reaches the window's own sound.
- Intervals are percentile bootstraps over people, the largest source of chance; with so few people they are rough, and an interval of
  one point only says that every person drawn had the same result.
- Each file is taken for one person. Reference offsets are those of clips.csv; shifts are planted in the samples."""
