"""Define a stage, run clips through stages, and time them."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from lipforge.datasets_manifest.schema import Stage, Status
from lipforge.pipeline.clip import Clip

T = TypeVar("T")


class ClipStage(Protocol):
    """Processes one clip at a time. Rejected clips are returned too, never dropped."""

    name: Stage

    def process(self, clip: Clip) -> list[Clip]: ...


class StageClock:
    """CPU seconds by stage. When one stage pulls from another, only the inner one is charged."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self._stack: list[str] = []
        self._since_s = 0.0

    def _switch(self) -> None:
        now_s = time.process_time()
        if self._stack:
            name = self._stack[-1]
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def stream(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items through, charging the time to produce each to `name`."""
        iterator = iter(items)
        while True:
            with self.running(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def apply(stages: list[ClipStage], clip: Clip, clock: StageClock) -> list[Clip]:
    """Run one clip through the stages. A clip that is rejected or failed skips the rest."""
    clips = [clip]
    for stage in stages:
        after: list[Clip] = []
        for candidate in clips:
            if candidate.status is not Status.KEPT:
                after.append(candidate)
                continue
            with clock.running(stage.name):
                after.extend(stage.process(candidate))
        clips = after
    return clips
