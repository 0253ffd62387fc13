"""How large a dataset gets, and how large it is at most while it is made: pure."""

from dataclasses import dataclass

import numpy as np

from lipforge.datasets_manifest.report.clips import MAX_EXAMPLES, MAX_KEPT_PLAYED
from lipforge.datasets_manifest.report.media import MAX_INLINE_BYTES, MAX_MEDIA_BYTES
from lipforge.pipeline.estimate.ranges import NUM_DRAWS, Array, Range, Uncertain
from lipforge.pipeline.ledger.segments import MAX_SECONDS, MAX_UNITS

ROW_BYTES = 400
"""Of a candidate, in the ledger's and the manifest's tables."""
TABLES_BYTES = 150_000
"""Of these tables, however few rows they have; of settings and the run's own files."""
PAGE_BYTES = 1_400_000
"""Of the report's page, which lies in the dataset and in the run."""
PAGE_VARIES = 0.5
"""Standard deviation of its logarithm."""
INSIDE_PAGES = 2 * 4 / 3
"""Bytes for each byte of small media, which lie in both pages, as base64. Larger ones lie once, beside them."""
PLAYED_SHARE = 0.85
"""Of a sample: what the report plays of it, which is the video and sound in one file."""
OPEN_SEGMENTS = 2
"""While one is sealed, its parts lie beside its shards, and the next has parts."""


@dataclass(frozen=True)
class Media:
    """What becomes of clips. Bytes of samples as they lie in tars."""

    shards: Uncertain
    refused: Uncertain
    stills: Uncertain
    num_kept: float
    num_refused: float
    num_rows: float


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    finished: Range
    shards: Range
    """Of these, what training reads."""
    refused: Range
    """Of these, what `lipforge prune` deletes."""
    report: Range
    """Of these, the report's pages and what they play."""
    peak: Range
    """While it is made."""


def disk_of(media: Media, seconds: float, num_units: int) -> Disk:
    """seconds, num_units: to be processed."""
    samples = media.shards + media.refused + media.stills
    tables = media.num_rows * ROW_BYTES + TABLES_BYTES
    report = _report(media)
    finished = samples + tables + report
    in_segment = 1 / max(seconds / MAX_SECONDS, num_units / MAX_UNITS, 1.0)
    parts = samples * min(1.0, OPEN_SEGMENTS * in_segment)
    sealing = samples + parts + tables
    peak = Uncertain(max(finished.value, sealing.value), np.maximum(finished.draws, sealing.draws))
    return Disk(finished.range, media.shards.range, media.refused.range, report.range, peak.range)


def _report(media: Media) -> Uncertain:
    kept = media.shards * min(1.0, 1.5 * MAX_KEPT_PLAYED / max(media.num_kept, 1.0))
    refused = media.refused * min(1.0, 4 * MAX_EXAMPLES / max(media.num_refused, 1.0))
    played = (kept + refused) * PLAYED_SHARE
    return Uncertain(float(_stored(played.value)), _stored(played.draws)) + _page()


def _stored(played_bytes: float | Array) -> Array:
    """What media take in a report."""
    is_inside = np.asarray(played_bytes) <= PLAYED_SHARE * MAX_INLINE_BYTES
    return np.where(is_inside, INSIDE_PAGES * played_bytes, np.minimum(played_bytes, MAX_MEDIA_BYTES))


def _page() -> Uncertain:
    rng = np.random.default_rng(0)
    return Uncertain(1.0, np.exp(rng.normal(0.0, PAGE_VARIES, NUM_DRAWS))) * PAGE_BYTES
