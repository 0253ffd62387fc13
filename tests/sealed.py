"""Manifest rows of one video, as publishing makes them of the records of its units."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lipforge.pipeline.clip import Video
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.ledger.segments import SEALED_COLUMNS
from lipforge.pipeline.publish.rows import Facts, manifest_rows
from lipforge.pipeline.publish.seal import DoneContent, sealed_row

HASHES = {"config_hash": "c", "models_hash": "m"}


def video_rows(
    video: Video, units: Sequence[Mapping[str, Any]], limits: Thresholds, facts: Facts | None = None
) -> list[dict[str, Any]]:
    done = DoneContent(0, video, ())
    rows = [sealed_row(row, done, dict(unit), HASHES) for unit in units for row in unit["rows"]]
    return manifest_rows(pa.Table.from_pylist(rows, SEALED_COLUMNS), limits, facts or Facts()).to_pylist()
