"""Metrics of a run, which Ray exports to Prometheus: infra/grafana.json shows them.

Ray puts `ray_` before each name, and sums up over its nodes. The driver alone counts, so nothing is counted twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lipforge.model.clock import FPS
from lipforge.pipeline.running.executors import Done
from lipforge.pipeline.running.workers import Undone


class Metrics(Protocol):
    def died(self, hosts: Sequence[str]) -> None:
        """Workers died on these during a task."""
        ...

    def unit(self, done: Done, seconds: Mapping[str, float]) -> None:
        """A unit or seam is done. seconds: of video by outcome; none for a seam."""
        ...

    def source_failed(self) -> None:
        """A source could not be probed, because its storage failed."""
        ...

    def queues(self, **lengths: int) -> None:
        """How many wait for what."""
        ...


class NoMetrics:
    """Without Ray nobody asks for them."""

    def died(self, hosts: Sequence[str]) -> None:
        pass

    def unit(self, done: Done, seconds: Mapping[str, float]) -> None:
        pass

    def source_failed(self) -> None:
        pass

    def queues(self, **lengths: int) -> None:
        pass


class RayMetrics:
    """The metrics that `infra/grafana.json` draws."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        def counter(name: str, what: str, *tags: str) -> Any:
            return Counter(f"lipforge_{name}", what, tag_keys=tags)

        self._units = counter(
            "units", "Units done, by host and whether they are done or left to the next run.", "host", "is"
        )
        self._video_s = counter("video_seconds", "Seconds of video, by outcome: kept, or the reason.", "outcome")
        self._stage_s = counter("stage_cpu_seconds", "CPU seconds by stage.", "stage")
        self._deaths = counter("worker_deaths", "Workers that died during a task, by host.", "host")
        self._storage = counter("storage_errors", "Sources and units that were left, because storage failed.")
        bounds = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
        self._wall = Histogram(
            "lipforge_unit_wall_seconds", "Time that a unit took, by host.", boundaries=bounds, tag_keys=("host",)
        )
        self._speed = Histogram(
            "lipforge_unit_wall_per_video_second",
            "Time that a unit took for each second of its video, by host: a slow machine shows here.",
            boundaries=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4],
            tag_keys=("host",),
        )
        self._queues = Gauge("lipforge_queue", "What waits: sources to probe, units, workers' tasks.", tag_keys=("of",))

    def died(self, hosts: Sequence[str]) -> None:
        for host in hosts:
            self._deaths.inc(1, {"host": host})

    def unit(self, done: Done, seconds: Mapping[str, float]) -> None:
        is_undone = isinstance(done.value, Undone)
        self._units.inc(1, {"host": done.host, "is": "undone" if is_undone else "done"})
        self._wall.observe(done.wall_s, {"host": done.host})
        self._speed.observe(done.wall_s * FPS / max(done.task.item.num_frames, 1), {"host": done.host})
        if is_undone:
            self._storage.inc(1)
            return
        for outcome, value in seconds.items():
            if value > 0:
                self._video_s.inc(value, {"outcome": outcome})
        for stage, cpu_s in done.value.get("stage_cpu_s", {}).items():
            if cpu_s > 0:
                self._stage_s.inc(cpu_s, {"stage": stage})

    def source_failed(self) -> None:
        self._storage.inc(1)

    def queues(self, **lengths: int) -> None:
        for name, length in lengths.items():
            self._queues.set(length, {"of": name})
