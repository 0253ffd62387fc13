"""One event for each unit that was done, so that a slow or failing machine can be found afterwards.

runs/<run_id>/events/000001.jsonl ...   a line for each unit or seam: what, where, how long, how it ended
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.running.executors import Done
from lipforge.pipeline.running.summary import now
from lipforge.pipeline.running.workers import Record, Undone

WRITE_EVERY_S = 60.0
MAX_WAITING = 2_000


class Events:
    """Of one run. They are no promise: a run that is killed loses those of the last minute."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._folder = f"runs/{run_id}/events"
        self._waiting: list[bytes] = []
        self._num_files = 0
        self._since_s = time.monotonic()

    def unit(self, done: Done, seconds: Mapping[str, float]) -> None:
        """seconds: of video by outcome, as `seconds_by_outcome` gives them; none for a seam."""
        unit: Unit = done.task.item
        outcome: Record | Undone = done.value
        is_undone = isinstance(outcome, Undone)
        event: dict[str, Any] = {
            "at": now(),
            "unit_id": unit.unit_id,
            "source_uri": unit.video.source.uri,
            "video_s": round(unit.num_frames / FPS, 2),
            "host": done.host,
            "wall_s": round(done.wall_s, 3),
            "attempts": len(done.died_on) + 1,
            "died_on": done.died_on,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "stage_cpu_s": {} if is_undone else outcome.get("stage_cpu_s", {}),
            "media_bytes": 0 if is_undone else sum(size for _, size in outcome.get("media", {}).values()),
            "undone": outcome.detail if is_undone else None,
        }
        self._waiting.append(json.dumps(event).encode())  # ASCII: names may hold any bytes
        if len(self._waiting) >= MAX_WAITING or time.monotonic() - self._since_s > WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write what is waiting."""
        if self._waiting:
            self._num_files += 1
            self._store.write(f"{self._folder}/{self._num_files:06d}.jsonl", b"\n".join(self._waiting) + b"\n")
            self._waiting = []
        self._since_s = time.monotonic()
