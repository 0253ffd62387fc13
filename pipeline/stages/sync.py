"""How far is the audio from the lips, and how sure is that?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lipforge.pipeline.clip import Clip

if TYPE_CHECKING:  # it loads torch, which cut workers do without
    from lipforge.model.sync.score import SyncScore


class SyncScorer(Protocol):
    """A sync model applied to a clip: pipeline/profiles.py has one for each profile."""

    name: str

    def score(self, clip: Clip) -> SyncScore: ...


class MeasureSync:
    """Adds `av_offset_frames`, `sync_confidence` and `sync_distance`, measured on the aligned clip.

    The offset is positive when the audio is early (SyncNet's sign: delay the audio by that much).
    """

    name = "measure_sync"

    def __init__(self, scorer: SyncScorer) -> None:
        self.scorer = scorer

    def process(self, clip: Clip) -> list[Clip]:
        score = self.scorer.score(clip)
        return [
            clip.measured(
                av_offset_frames=score.offset_frames,
                sync_confidence=score.confidence,
                sync_distance=score.distance,
                sync_model=self.scorer.name,
            )
        ]
