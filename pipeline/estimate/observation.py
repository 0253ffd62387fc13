"""What one span of a sample showed: seconds by outcome, clips, bytes, CPU time. Pure.

A span that is cut out of a long unit has borders that the run will not have. A run of a face that crosses one is seen
only in part:

- From half of the longest clip on, the part is cut as if it were all, which the rest hardly changes. A clip at a border
  counts as a part of one: its whole length is taken to be midway between what is seen and the longest.
- A shorter part is left open, as at the border of two units (sources/seams.py): it is not measured, and its seconds
  have no outcome here. The forecast gives them those of all other runs, second by second: a border falls into a run as
  often as the run is long.

What remains: parts of 5 s and more are judged on less than they would be, so a few more of them miss the threshold of
lip-sync than will in the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.sample import megapixels_per_s
from lipforge.pipeline.publish.accounts import account
from lipforge.pipeline.publish.decide import decided, is_measured

KEPT = "kept"
SHARDS, REFUSED, STILLS = "shards", "refused", "stills"
CLIP_STAGES = frozenset(("align", "encode", "detect_speech", "measure_sync", "measure_quality", "commit"))
"""Their work grows with the seconds of clips, not of video."""
_NOT_OF_RUNS = frozenset((Reason.NO_FACE, Reason.FROZEN, Reason.FACE_CUT_OFF, Reason.NO_AUDIO))


@dataclass(frozen=True)
class Observation:
    """Of one span."""

    language: str
    seconds: float
    megapixels: float
    """Decoded."""
    outcome_s: dict[str, float]
    """`kept`, and by reason: each second once, but for open_s."""
    run_outcome_s: dict[str, float]
    """Of these, what became of runs of faces."""
    open_s: float
    """Of runs that go on beyond the span and are not measured."""
    kept_clips: float
    refused_clips: float
    """That were measured."""
    num_rows: int
    media_bytes: dict[str, int] = field(default_factory=dict)
    """Of SHARDS, REFUSED, STILLS."""
    stage_cpu_s: dict[str, float] = field(default_factory=dict)
    cpu_s: float = 0.0
    """Of the process, for this span: all stages and what is between them."""
    wall_s: float = 0.0
    peak_mb: float = 0.0
    """Of the process so far: the most memory that it held."""


def observe(unit: Unit, record: Mapping[str, Any], config: PrepareConfig) -> Observation:
    """record: of the unit, as `UnitWorker` returns it. Costs of the process are left to whoever measured them."""
    rows = [decided(row, config.thresholds) for row in record["rows"]]
    account(rows, unit.start_frame, unit.end_frame)
    open_spans = {(end["start_frame"], end["end_frame"]) for end in record["open_ends"]}
    outcome_s: dict[str, float] = {}
    run_outcome_s: dict[str, float] = {}
    kept_clips = refused_clips = 0.0
    media_bytes: dict[str, int] = dict.fromkeys((SHARDS, REFUSED, STILLS), 0)
    open_s = 0.0
    for row in rows:
        outcome = KEPT if row["status"] == Status.KEPT else row["reason"]
        seconds = row["accounted_frames"] / FPS
        _, size = record["media"].get(row["key"], (0, 0))
        media_bytes[SHARDS if outcome == KEPT else REFUSED if is_measured(row) else STILLS] += size
        if not is_measured(row) and (row["start_frame"], row["end_frame"]) in open_spans:
            open_s += seconds
            continue
        outcome_s[outcome] = outcome_s.get(outcome, 0.0) + seconds
        if outcome == KEPT:
            kept_clips += _clips(row, unit, config.cut.max_frames)
        elif is_measured(row):
            refused_clips += _clips(row, unit, config.cut.max_frames)
        if is_measured(row) or (outcome not in _NOT_OF_RUNS and row["status"] != Status.FAILED):
            run_outcome_s[outcome] = run_outcome_s.get(outcome, 0.0) + seconds
    seconds = unit.num_frames / FPS
    return Observation(
        language=unit.video.source.language,
        seconds=seconds,
        megapixels=seconds * megapixels_per_s(unit),
        outcome_s=outcome_s,
        run_outcome_s=run_outcome_s,
        open_s=open_s,
        kept_clips=kept_clips,
        refused_clips=refused_clips,
        num_rows=len(rows),
        media_bytes=media_bytes,
        stage_cpu_s=dict(record.get("stage_cpu_s", {})),
    )


def _clips(row: Mapping[str, Any], unit: Unit, max_frames: int) -> float:
    """1; of a clip at a border within its video, the part that is seen."""
    seen, video = row["end_frame"] - row["start_frame"], unit.video
    at_start = row["start_frame"] == unit.start_frame > video.first_frame
    at_end = row["end_frame"] == unit.end_frame < video.end_frame
    return 2 * seen / (seen + max_frames) if at_start or at_end else 1.0
