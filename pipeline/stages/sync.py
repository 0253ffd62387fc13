"""How far is the sound from the lips, and how sure is that?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lipforge.datasets_manifest.schema import Stage
from lipforge.pipeline.clip import Clip

if TYPE_CHECKING:  # it loads torch, which cut workers do without
    from lipforge.model.sync.score import SyncScore


class SyncJudge(Protocol):
    """A model, and what of a clip it looks at: pipeline/profiles.py has one for each."""

    name: str

    def score(self, clip: Clip) -> SyncScore: ...


class MeasureSync:
    """Adds `av_offset_frames`, `sync_confidence` and `sync_distance`, measured on the aligned clip.

    The offset is positive when the audio is early (SyncNet's sign: delay the audio by that much).
    """

    name = Stage.MEASURE_SYNC

    def __init__(self, judge: SyncJudge) -> None:
        self.judge = judge

    def process(self, clip: Clip) -> list[Clip]:
        score = self.judge.score(clip)
        return [
            clip.measured(
                av_offset_frames=score.offset_frames,
                sync_confidence=score.confidence,
                sync_distance=score.distance,
                sync_model=self.judge.name,
            )
        ]
