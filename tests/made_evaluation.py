"""Make evaluations: results of judges that never saw a video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lipforge.pipeline.evaluate.metrics import METRICS
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
    groups = {"all": list(rows)}
    for row in rows:
        for column in ("language", "speaker"):
            groups.setdefault(f"{column}={row[column]}", []).append(row)
    tried = [name for name in _NUMBERS if any(row[name] is not None or name in row["reasons"] for row in rows)]
    numbers = [_number(name, group, members) for group, members in groups.items() for name in tried]
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


def _number(name: str, group: str, rows: Sequence[Mapping[str, Any]]) -> Number:
    """With an interval by the normal distribution."""
    values = [row[name] for row in rows if row[name] is not None]
    unmeasured = dict(Counter(row["reasons"].get(name, "not measured") for row in rows if row[name] is None))
    if not values:
        return Number(name, group, 0, None, unmeasured=unmeasured)
    mean = float(np.mean(values))
    if len(values) == 1:
        return Number(name, group, 1, mean, unmeasured=unmeasured)
    reach = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Number(name, group, len(values), mean, mean - reach, mean + reach, unmeasured)
