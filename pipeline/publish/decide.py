"""Keep or reject measured clips: a pure function of their measures and the thresholds.

The ledger stores measures, and a verdict only for clips that an earlier stage rejected or that failed. Whoever needs
verdicts asks `decided` (one row) or `decide_all` (a table) with the thresholds in force, so new thresholds need no
models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.model.clock import FPS
from lipforge.pipeline.config import Thresholds


@dataclass(frozen=True)
class Verdict:
    status: Status
    stage: Stage
    reason: Reason | None = None
    detail: str = ""


_SHORT_FRAMES, _LONG_FRAMES = 4 * FPS, 5 * FPS
"""Where `short_sync_factor` begins to fall, and where it has ended."""
KEPT = Verdict(Status.KEPT, Stage.COMMIT)


def confidence_needed(num_frames: Any, thresholds: Thresholds) -> Any:
    """Smallest sync confidence of a clip of num_frames at 25 fps: more for a short one, see `short_sync_factor`.

    num_frames: a number or an array.
    """
    assert thresholds.min_sync_confidence is not None
    factor = thresholds.short_sync_factor or 1.0
    shortness = np.clip((_LONG_FRAMES - num_frames) / (_LONG_FRAMES - _SHORT_FRAMES), 0.0, 1.0)
    return thresholds.min_sync_confidence * (1 + (factor - 1) * shortness)


@dataclass(frozen=True)
class _Check:
    """One threshold."""

    column: str
    """Null in rows of earlier versions: not refused."""
    stage: Stage
    reason: Reason
    misses: Callable[[Any, Any, Thresholds], Any]
    """(values, frames of the clip, thresholds) -> whether they miss it; for numbers or arrays."""
    words: Callable[[Any, Any, Thresholds], str]


def _sync_words(confidence: float, frames: int, limits: Thresholds) -> str:
    needed = float(confidence_needed(frames, limits))
    of_length = f" for {frames / FPS:.2f} s" if needed > (limits.min_sync_confidence or 0.0) else ""
    return f"sync confidence {confidence:.2f} ({limits.sync_model}); {needed:.4g} is needed{of_length}"


_CHECKS = (
    _Check(
        "quality",  # of any measured clip: its length is looked at
        Stage.CUT,
        Reason.TOO_SHORT,
        lambda _, frames, limits: frames / FPS < limits.min_clip_s,
        lambda _, frames, limits: f"the clip has {frames / FPS:.2f} s; {limits.min_clip_s:g} s are needed",
    ),
    _Check(
        "outside_ratio",
        Stage.ALIGN,
        Reason.FACE_CUT_OFF,
        lambda outside, _, limits: outside > limits.max_outside_ratio,
        lambda outside, _, limits: (
            f"up to {outside:.0%} of the crop is outside the picture; {limits.max_outside_ratio:.0%} is allowed"
        ),
    ),
    _Check(
        "speech_ratio",
        Stage.DETECT_SPEECH,
        Reason.NO_SPEECH,
        lambda speech, _, limits: speech < limits.min_speech_ratio,
        lambda speech, _, limits: f"speech in {speech:.0%} of the clip; {limits.min_speech_ratio:.0%} is needed",
    ),
    _Check(  # measured only where it is certain, and it lowers the confidence: so it is named first
        "av_drift_frames",
        Stage.MEASURE_SYNC,
        Reason.AV_DRIFT,
        lambda drift, _, limits: abs(drift) > limits.max_av_drift_frames,
        lambda drift, _, limits: (
            f"the offset changes by {drift:+.1f} frames within the clip; "
            f"{limits.max_av_drift_frames:g} leave both ends within one frame"
        ),
    ),
    _Check(
        "sync_confidence",
        Stage.MEASURE_SYNC,
        Reason.LOW_SYNC_CONFIDENCE,
        lambda confidence, frames, limits: confidence < confidence_needed(frames, limits),
        _sync_words,
    ),
    _Check(
        "av_offset_frames",
        Stage.MEASURE_SYNC,
        Reason.AV_OFFSET_TOO_LARGE,
        lambda offset, _, limits: abs(offset) > limits.max_av_offset_frames,
        lambda offset, _, limits: (
            f"the audio is off by {offset:+.0f} frames; at most {limits.max_av_offset_frames} are corrected"
        ),
    ),
    _Check(
        "quality",
        Stage.MEASURE_QUALITY,
        Reason.LOW_QUALITY,
        lambda quality, _, limits: quality < limits.min_quality,
        lambda quality, _, limits: (
            f"quality {quality:.0f} of 100 ({limits.quality_model}); {limits.min_quality:g} is needed"
        ),
    ),
)
"""In the order of the stages: a clip is refused by the first that it misses."""


def is_measured(row: Mapping[str, Any]) -> bool:
    """True for a clip whose media was stored: thresholds decide on it."""
    return row.get("quality") is not None


def decided(row: Mapping[str, Any], thresholds: Thresholds) -> dict[str, Any]:
    """A row of the ledger with its verdict in `status`, `stage`, `reason` and `detail`."""
    if not is_measured(row):
        return dict(row)
    verdict = decide(row, thresholds)
    reason = verdict.reason.value if verdict.reason else None
    outcome = {"status": verdict.status.value, "stage": verdict.stage.value, "reason": reason}
    return {**row, **outcome, "detail": verdict.detail or None}


def decide(measures: Mapping[str, Any], thresholds: Thresholds) -> Verdict:
    """The first threshold that a clip misses.

    measures: start_frame, end_frame, those of the manifest's columns that thresholds limit, sync_model, quality_model.
    min_sync_confidence and min_quality must be set. Raises ValueError when the measures are of other models than the
    thresholds.
    """
    assert thresholds.min_sync_confidence is not None and thresholds.min_quality is not None
    _check_scales({measures.get("sync_model")}, {measures.get("quality_model")}, thresholds)
    frames = measures["end_frame"] - measures["start_frame"]
    for check in _CHECKS:
        value = measures.get(check.column)
        if value is not None and check.misses(value, frames, thresholds):
            return Verdict(Status.REJECTED, check.stage, check.reason, check.words(value, frames, thresholds))
    return KEPT


def decide_all(rows: pa.Table, thresholds: Thresholds) -> pa.Table:
    """Rows of a sealed segment with `status`, `stage`, `reason` and `detail` set for measured clips, too."""
    measured = rows["quality"].is_valid().to_numpy()
    if not measured.any():
        return rows
    here = rows.filter(pa.array(measured))
    _check_scales(
        set(here["sync_model"].unique().to_pylist()), set(here["quality_model"].unique().to_pylist()), thresholds
    )
    outcome = {name: rows[name].to_numpy().copy() for name in ("status", "stage", "reason", "detail")}
    for name, value in (("status", KEPT.status), ("stage", KEPT.stage), ("reason", None), ("detail", None)):
        outcome[name][measured] = value
    undecided = measured.copy()
    frames = rows["end_frame"].to_numpy() - rows["start_frame"].to_numpy()
    for check in _CHECKS:
        values = rows[check.column].cast(pa.float64()).to_numpy()
        with np.errstate(invalid="ignore"):
            missing = undecided & ~np.isnan(values) & check.misses(values, frames, thresholds)
        undecided &= ~missing
        outcome["status"][missing] = Status.REJECTED.value
        outcome["stage"][missing] = check.stage.value
        outcome["reason"][missing] = check.reason.value
        pairs = zip(values[missing].tolist(), frames[missing].tolist(), strict=True)
        outcome["detail"][missing] = [check.words(value, count, thresholds) for value, count in pairs]
    for name, values in outcome.items():
        column = pa.array(values.tolist(), pa.string())
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _check_scales(sync_models: set[Any], quality_models: set[Any], thresholds: Thresholds) -> None:
    for what, measured_by, made_for in (
        ("sync confidence", sync_models, thresholds.sync_model),
        ("quality", quality_models, thresholds.quality_model),
    ):
        for name in measured_by - {made_for}:
            raise ValueError(
                f"{what} was measured by {name}, but the threshold is on the scale of "
                f"{made_for or 'an unnamed model'}: the two are not comparable. "
                "Prepare the sources into a new folder with one set of models."
            )
