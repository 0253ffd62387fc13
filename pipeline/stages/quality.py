"""Measure image quality: is the clip good enough to learn teeth from?"""

from typing import Protocol

import numpy as np

from lipforge.datasets_manifest.schema import Stage
from lipforge.pipeline.clip import Clip


class QualityModel(Protocol):
    name: str

    def score(self, frames: np.ndarray) -> float:
        """0..100, higher is better. frames: uint8 [N, S, S, 3] RGB of one clip."""
        ...


class MeasureQuality:
    """Adds `quality`, 0..100: the mean over the first, middle and last frame."""

    name = Stage.MEASURE_QUALITY

    def __init__(self, model: QualityModel) -> None:
        self.model = model

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.quality_frames is not None
        return [clip.measured(quality=self.model.score(clip.quality_frames), quality_model=self.model.name)]
