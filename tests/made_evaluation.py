"""Make evaluations: results of judges that never saw a video."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lipforge.pipeline.evaluate.metrics import METRICS
from lipforge.pipeline.evaluate.numbers import numbers_of
from lipforge.pipeline.evaluate.result import Evaluation, Missing, ModelUsed, Number

_NUMBERS: Mapping[str, tuple[float, float]] = {  # mean and deviation
    "sync_confidence": (2.9, 0.8),
    "sync_offset_frames": (-0.4, 1.6),
    "shift_error_frames": (0.4, 0.3),
    "foreign_sync_confidence": (2.4, 0.7),
    "st_lpips": (0.11, 0.02),
    "st_lpips_mouth": (0.08, 0.02),
    "ssim": (0.947, 0.012),
    "ssim_mouth": (0.87, 0.03),
    "psnr_db": (31.2, 2.0),
    "psnr_db_mouth": (27.4, 2.0),
    "csim": (0.87, 0.04),
    "lip_distance_px": (2.7, 0.6),
    "mouth_opening": (0.041, 0.012),
    "mouth_movement": (0.018, 0.005),
    "silent_opening": (0.35, 0.1),
    "silent_movement": (0.14, 0.06),
    "leak": (0.12, 0.1),
    "identity_drift": (0.05, 0.02),
    "jitter": (0.33, 0.08),
    "jitter_excess": (0.02, 0.06),
    "frames_error": (0.0, 0.4),
    "length_error_s": (0.0, 0.02),
}
SCORER = ModelUsed("lip-sync scorer", "ab" * 32, "Apache-2.0", ["sync_confidence", "sync_offset_frames"])


def made_rows(
    num_clips: int, seed: int = 0, languages: Sequence[str] = ("en", "hi", "ur"), num_speakers: int = 8
) -> list[dict[str, Any]]:
    """Rows of clips.parquet. Each eleventh clip has no face."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(num_clips):
        hard = random.normal()  # what makes a clip hard, for all numbers
        language = languages[index % len(languages)]
        row: dict[str, Any] = {
            "file": f"{language}/clip {index:04d}",
            "video": f"/videos/{language}/clip {index:04d}.mp4",
            "reference": f"/originals/{language}/clip {index:04d}.mp4",
            "language": language,
            "speaker": f"speaker {random.integers(num_speakers)}",
            "status": "not measured" if index % 11 == 10 else "measured",
            "detail": "no face" if index % 11 == 10 else "",
            "reasons": {},
        }
        for name, (mean, deviation) in _NUMBERS.items():
            value = mean + deviation * (0.7 * hard + 0.7 * random.normal())
            missing = row["detail"] or (name == "csim" and index % 7 == 3)
            row[name] = None if missing else round(value) if METRICS[name].unit == "frames" else value
            if missing:
                row["reasons"][name] = row["detail"] or "face turned away"
        rows.append(row)
    return rows


def made_evaluation(rows: Sequence[dict[str, Any]], **changes: Any) -> Evaluation:
    """What a run says of these rows."""
    metrics = [name for name in METRICS if any(row.get(name) is not None for row in rows)]
    numbers = numbers_of(rows, ["language", "speaker"], metrics)
    settings: dict[str, Any] = {
        "made": "2026-11-26T07:40:00Z",
        "command": "lipforge evaluate videos --reference originals --by language --out report",
        "lipforge": "0.1.0",
        "videos": "videos",
        "reference": "originals",
        "model": None,
        "seed": 0,
        "resamples": 2000,
        "num_videos": len(rows),
        "numbers": [*numbers, Number("fid", "all", 6400, 18.3)],
        "models": [SCORER],
        "missing": [
            Missing(["lpips", "lpips_mouth"], "the weights of LPIPS are not here", "lipforge models fetch lpips")
        ],
        "notes": ["Of each video the first 10 s are judged."],
    }
    return Evaluation(**{**settings, **changes})
