"""Measure the offset between audio and lips, and how certain it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lipforge.datasets_manifest.schema import Stage
from lipforge.pipeline.clip import Clip

if TYPE_CHECKING:  # it imports torch, which cut workers do not need
    from lipforge.model.sync.score import SyncScore


class SyncScorer(Protocol):
    """Scores lip-sync from the fields of a clip that its model needs. Implemented in pipeline/profiles.py."""

    name: str

    def score(self, clip: Clip) -> SyncScore: ...


class MeasureSync:
    """Adds `av_offset_frames`, `av_drift_frames`, `sync_confidence` and `sync_distance`, measured on the aligned clip.

    The offset is positive when the audio is early (SyncNet's sign: delay the audio by that much).
    """

    name = Stage.MEASURE_SYNC

    def __init__(self, scorer: SyncScorer) -> None:
        self.scorer = scorer

    def process(self, clip: Clip) -> list[Clip]:
        score = self.scorer.score(clip)
        return [
            clip.measured(
                av_offset_frames=score.offset_frames,
                av_drift_frames=score.drift_frames,
                sync_confidence=score.confidence,
                sync_distance=score.distance,
                sync_model=self.scorer.name,
            )
        ]
