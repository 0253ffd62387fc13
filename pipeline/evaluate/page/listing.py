"""The table of all clips, as data for the page's script: it shows some at a time, so that thousands open fast."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lipforge.datasets_manifest.language_tags import UNKNOWN
from lipforge.pipeline.evaluate.metrics import METRICS
from lipforge.pipeline.evaluate.page.words import (
    MAIN,
    decimals,
    metric_named,
    shown,
    title_of,
    why_not_judged,
)

MAX_LISTED_BYTES = 1_500_000
NUM_COLUMNS = 5
"""Metrics beside a clip's name; any other can be chosen."""
_DIGITS = 5


def listed(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """(JSON for a script element, how many clips it holds). Those of lowest sync confidence stay, if not all fit."""
    names = [name for name in METRICS if any(_number(row.get(name)) is not None for row in rows)]
    order = sorted(rows, key=lambda row: (_number(row.get("sync_confidence")) is None, row.get("sync_confidence") or 0))
    lines, size = [], 0
    for row in order:
        line = _json(
            [
                shown(str(row["file"])),
                shown("" if row.get("language") in (None, UNKNOWN) else str(row["language"])),
                shown(str(row.get("speaker") or "")),
                shown(why_not_judged(row) or ""),
                *(_number(row.get(name)) for name in names),
            ]
        )
        size += len(line) + 1
        if size > MAX_LISTED_BYTES:
            break
        lines.append(line)
    main = [name for name in MAIN if name in names][:NUM_COLUMNS]
    metrics = [
        {"title": title_of(metric), "unit": metric.unit, "decimals": decimals(metric), "main": metric.name in main}
        for metric in map(metric_named, names)
    ]
    return f'{{"metrics":{_json(metrics)},"rows":[{",".join(lines)}]}}', len(lines)


def _number(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def _json(value: Any) -> str:
    """ASCII that cannot end a script element, whatever names hold."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
