"""Tables and numbers as Markdown text."""

from collections.abc import Sequence

import numpy as np

from benchmarks.lip_sync.measures import Estimate


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def with_interval(found: Estimate, num_speakers: int) -> str:
    if np.isnan(found.value):
        return "-"
    if num_speakers == 1:
        return f"{found.value:.3f} (1 speaker: no interval)"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def seconds(length: int) -> str:
    return f"{length / 25:.2g} s"


def num_speakers_text(count: int) -> str:
    return "1 speaker" if count == 1 else f"{count} speakers"
