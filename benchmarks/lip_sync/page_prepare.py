"""Sections of the page on a run of `lipforge prepare` with planted offsets: what it found, and its speed."""

from collections.abc import Sequence

import numpy as np

from benchmarks.lip_sync.engine import Found, residuals
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.markdown import number, percent, table


def engine_section(evidence: Evidence, folder: str) -> str:
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
        "stored, scored again: within 0 / 1 / 2",
    ]
    ways = " and ".join(sorted({item.way for item in run.found}))
    planted = ", ".join(f"{frames:+d}" for frames in sorted({item.planted for item in run.found}))
    return f"""## Planted offsets through all of `lipforge prepare`

The audio of natural videos was shifted by {planted} frames, in {ways}:
{len(run.found)} candidate clips, {len(found)} measured, {len(kept)} kept (`thresholds.max_av_offset_frames=15`).
Found minus planted minus the video's own offset: within 1 frame for
{percent(float(np.mean(off <= 1)))}, within 2 for {percent(float(np.mean(off <= 2)))}.

{len(left)} stored clips were read back from their shards and scored as training will see them:
{percent(float(np.mean(left <= 1)))} within 1 frame of 0. Stored audio has no margin, so only frames at least 0.6 s from
both ends are scored, with lips and mouth from the stored frames.

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


def speed_section(evidence: Evidence) -> str:
    run = evidence.engine
    total = sum(run.stage_cpu_s.values())
    scorer = run.stage_cpu_s["measure_sync"]
    return f"""## Speed

Scoring 5 s takes {evidence.score_ms:.0f} ms of CPU time on one core, {5000 / evidence.score_ms:.0f} times faster than
real time, without landmarks. In the run above `measure_sync` took {scorer:.1f} of {total:.0f} CPU seconds of
`lipforge prepare`
({100 * scorer / total:.1f} %), for {run.seconds:.0f} s of video."""
