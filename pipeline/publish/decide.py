"""Keep or reject a measured clip: a pure function of its measures and the thresholds.

The ledger stores measures, and a verdict only for clips that an earlier stage rejected or that failed. Whoever needs
verdicts asks `decided` with the thresholds in force, so new thresholds need no models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def is_measured(row: Mapping[str, Any]) -> bool:
    """True for a clip whose media was stored: thresholds decide on it."""
    return row.get("quality") is not None


def decided(row: Mapping[str, Any], thresholds: Thresholds) -> dict[str, Any]:
    """A row of the ledger with its verdict in `status`, `stage`, `reason` and `detail`.

    Records of earlier versions also hold a verdict on measured clips; it is replaced.
    """
    if not is_measured(row):
        return dict(row)
    verdict = decide(row, thresholds)
    reason = verdict.reason.value if verdict.reason else None
    outcome = {"status": verdict.status.value, "stage": verdict.stage.value, "reason": reason}
    return {**row, **outcome, "detail": verdict.detail or None}


def decide(measures: Mapping[str, Any], thresholds: Thresholds) -> Verdict:
    """The first threshold that a clip misses, in the order of the stages.

    measures: start_frame, end_frame, speech_ratio, av_drift_frames, sync_confidence, av_offset_frames, quality;
    sync_model and quality_model. A drift is measured only where it is certain, and lowers the confidence: so it is
    named first. min_sync_confidence and min_quality must be set. Raises ValueError when the measures are of other
    models than the thresholds.
    """
    assert thresholds.min_sync_confidence is not None and thresholds.min_quality is not None
    _check_scale("sync confidence", measures.get("sync_model"), thresholds.sync_model)
    _check_scale("quality", measures.get("quality_model"), thresholds.quality_model)
    num_frames = measures["end_frame"] - measures["start_frame"]
    duration_s = num_frames / FPS
    if duration_s < thresholds.min_clip_s:
        detail = f"the clip has {duration_s:.2f} s; {thresholds.min_clip_s:g} s are needed"
        return Verdict(Status.REJECTED, Stage.CUT, Reason.TOO_SHORT, detail)
    speech = measures["speech_ratio"]
    if speech < thresholds.min_speech_ratio:
        detail = f"speech in {speech:.0%} of the clip; {thresholds.min_speech_ratio:.0%} is needed"
        return Verdict(Status.REJECTED, Stage.DETECT_SPEECH, Reason.NO_SPEECH, detail)
    drift = measures.get("av_drift_frames") or 0.0  # records of earlier versions have none
    if abs(drift) > thresholds.max_av_drift_frames:
        detail = (
            f"the offset changes by {drift:+.1f} frames within the clip; "
            f"{thresholds.max_av_drift_frames:g} leave both ends within one frame"
        )
        return Verdict(Status.REJECTED, Stage.MEASURE_SYNC, Reason.AV_DRIFT, detail)
    confidence, offset = measures["sync_confidence"], measures["av_offset_frames"]
    needed = confidence_needed(num_frames, thresholds)
    if confidence < needed:
        of_length = f" for {duration_s:.2f} s" if needed > thresholds.min_sync_confidence else ""
        detail = f"sync confidence {confidence:.2f} ({thresholds.sync_model}); {needed:.4g} is needed{of_length}"
        return Verdict(Status.REJECTED, Stage.MEASURE_SYNC, Reason.LOW_SYNC_CONFIDENCE, detail)
    if abs(offset) > thresholds.max_av_offset_frames:
        detail = f"the audio is off by {offset:+d} frames; at most {thresholds.max_av_offset_frames} are corrected"
        return Verdict(Status.REJECTED, Stage.MEASURE_SYNC, Reason.AV_OFFSET_TOO_LARGE, detail)
    quality = measures["quality"]
    if quality < thresholds.min_quality:
        detail = f"quality {quality:.0f} of 100 ({thresholds.quality_model}); {thresholds.min_quality:g} is needed"
        return Verdict(Status.REJECTED, Stage.MEASURE_QUALITY, Reason.LOW_QUALITY, detail)
    return KEPT


def confidence_needed(num_frames: int, thresholds: Thresholds) -> float:
    """Smallest sync confidence of a clip of num_frames at 25 fps: more for a short one, see `short_sync_factor`."""
    assert thresholds.min_sync_confidence is not None
    factor = thresholds.short_sync_factor or 1.0  # datasets of earlier versions have none
    shortness = min(max((_LONG_FRAMES - num_frames) / (_LONG_FRAMES - _SHORT_FRAMES), 0.0), 1.0)
    return thresholds.min_sync_confidence * (1 + (factor - 1) * shortness)


def _check_scale(what: str, measured_by: str | None, made_for: str | None) -> None:
    if measured_by != made_for:
        raise ValueError(
            f"{what} was measured by {measured_by}, but the threshold is on the scale of "
            f"{made_for or 'an unnamed model'}: the two are not comparable. "
            "Prepare the sources into a new folder with one set of models."
        )
