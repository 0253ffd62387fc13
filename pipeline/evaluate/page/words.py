"""How the page writes numbers, names and sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lipforge.datasets_manifest.display import visible
from lipforge.pipeline.evaluate.metrics import METRICS, Better, Metric
from lipforge.pipeline.evaluate.result import ALL, MEASURED, Evaluation, Number

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
GROUPS = {
    "sync": "Lips and sound",
    "picture": "Picture against the reference",
    "mouth": "Mouth",
    "steadiness": "Steadiness over time",
    "set": "The whole set",
    "other": "Others",
}
_DECIMALS = {"frames": 1, "dB": 1, "px": 2, "px/frame²": 2, "s": 2}
_ROUNDING = 1e-7
"""Below it a number is what rounding left of 0."""
_OF_SETS = {"fid": "frames", "fvd": "windows"}
_TWO_DECIMALS = ("confidence", "distance")
MAIN = (
    "sync_confidence",
    "sync_offset_frames",
    "syncnet_v2_confidence",
    "lpips_mouth",
    "st_lpips_mouth",
    "ssim_mouth",
    "lip_distance_px",
    "csim",
    "shift_error_frames",
    "leak",
    "silent_movement",
    "foreign_sync_confidence",
    "jitter",
    "identity_drift",
)
"""Metrics that have a chart, the most telling first."""
MAX_NAME = 120
"""Characters of a file name that the page shows in text."""


def metric_named(name: str) -> Metric:
    """Reports of other versions may hold metrics that this one does not know."""
    unknown = Metric(name, name, "", Better.AS_ORIGINAL, "other", "Not known to this version of lipforge.")
    return METRICS.get(name, unknown)


def decimals(metric: Metric) -> int:
    if metric.of_set:
        return 1
    if metric.unit in _DECIMALS:
        return _DECIMALS[metric.unit]
    return 2 if any(word in metric.name for word in _TWO_DECIMALS) else 3


def number_text(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    """`2.31`, `−1.2`; small values keep two digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return DASH
    places = decimals(metric)
    if abs(value) < _ROUNDING:
        value = 0.0
    while value != 0 and abs(value) < 0.95 * 10.0**-places and places < 8:
        places += 1
    text = f"{abs(value):,.{places}f}"
    if value < 0 and float(text.replace(",", "")) != 0:
        return MINUS + text
    return f"+{text}" if signed and value > 0 else text


def with_unit(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    text = number_text(value, metric, signed=signed)
    return text if text == DASH or not metric.unit else f"{text}\N{NO-BREAK SPACE}{metric.unit}"


def interval_text(low: float | None, high: float | None, metric: Metric, *, signed: bool = False) -> str:
    """`2.10 to 2.52`; empty without an interval."""
    if low is None or high is None:
        return ""
    return f"{number_text(low, metric, signed=signed)} to {number_text(high, metric, signed=signed)}"


def title_of(metric: Metric) -> str:
    return metric.title[:1].upper() + metric.title[1:]


def shown(name: str) -> str:
    """A name from data: nothing in it hides, and it fits. The end of a long one says more than its middle."""
    text = visible(name)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME // 2]} … {text[-MAX_NAME // 2 :]}"


def why_not_judged(row: Mapping[str, Any]) -> str | None:
    """Why a clip has no number at all, in words; None for those that have some."""
    return None if row["status"] == MEASURED else str(row.get("detail") or row["status"])


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 clip`, `2,000 clips`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def counted_of(number: Number) -> str:
    """`20`, of clips; of sets `12 windows` or `400 frames`."""
    return f"{number.n:,} {_OF_SETS.get(number.metric, '')}".rstrip()


def of_all(found: Evaluation) -> dict[str, Number]:
    """Numbers of the group of all clips, by metric, where something was measured."""
    return {number.metric: number for number in found.numbers if number.group == ALL and number.value is not None}


def better_text(metric: Metric) -> tuple[str, str]:
    """(arrow, words)"""
    if metric.group == "other":
        return "", ""
    match metric.better:
        case Better.HIGHER:
            return "↑", "higher is better"
        case Better.LOWER:
            return "↓", "lower is better"
        case Better.ZERO:
            return "→ 0", "near 0 is better"
        case Better.AS_ORIGINAL:
            return "≈", "as the original's"


NATURAL_SYNC = 2.2
"""Of the built-in scorer: chance reads below, natural speech above (docs/models/lip_sync.md)."""


def headline(found: Evaluation, num_judged: int) -> list[str]:
    """What came out, in sentences."""
    numbers = of_all(found)
    if num_judged == 0:
        return [f"None of {counted(found.num_videos, 'clip')} could be judged."]
    if num_judged == found.num_videos:
        sentences = [f"{counted(num_judged, 'clip')} {'was' if num_judged == 1 else 'were'} judged."]
    else:
        sentences = [f"{num_judged:,} of {counted(found.num_videos, 'clip')} could be judged."]
    sync = numbers.get("sync_confidence")
    if sync is not None and sync.low is None:
        clear = "above" if (sync.value or 0.0) > NATURAL_SYNC else "below"
        sentences.append(f"Its sync confidence lies {clear} the line between chance and natural speech.")
    elif sync is not None:
        sentences.append(_sync_sentence(sync))
    if sync is not None and (sync.value or 0.0) > NATURAL_SYNC and _is_chance(numbers.get("foreign_sync_confidence")):
        sentences.append("They do not follow a foreign sound: a mouth that is only copied scores like this.")
    return sentences


def _is_chance(sync: Number | None) -> bool:
    if sync is None or sync.value is None:
        return False
    return (sync.value if sync.high is None else sync.high) < NATURAL_SYNC


def _sync_sentence(sync: Number) -> str:
    assert sync.value is not None
    low, high = (sync.value if end is None else end for end in (sync.low, sync.high))
    if low > NATURAL_SYNC:
        return "The lips follow the sound, as in natural speech."
    if high < NATURAL_SYNC:
        return "The lips do not follow the sound: sync confidence is at the level of chance."
    return "Whether the lips follow the sound is not clear: the interval holds the line between chance and speech."


def counts_by_reason(numbers: Sequence[Number]) -> list[tuple[Metric, Mapping[str, int]]]:
    """Of all clips: metrics that some clips lack, with clips by reason."""
    return [
        (metric_named(number.metric), dict(sorted(number.unmeasured.items(), key=lambda item: -item[1])))
        for number in numbers
        if number.group == ALL and number.unmeasured
    ]
