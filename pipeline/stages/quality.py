"""Is the picture good enough to learn teeth from?"""

from model.quality import PictureQuality
from pipeline.clip import Clip


class MeasureQuality:
    """Adds `quality`, 0..100: the mean over the first, middle and last frame."""

    name = "measure_quality"

    def __init__(self) -> None:
        self.model = PictureQuality()

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.quality_frames is not None
        return [clip.measured(quality=self.model.score(clip.quality_frames), quality_model=self.model.name)]
