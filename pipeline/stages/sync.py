"""How far is the sound from the lips, and how sure is that?"""

from model.lip_sync import LipSync
from pipeline.clip import Clip


class MeasureSync:
    """Adds `av_offset_frames`, `sync_confidence` and `sync_distance`, measured on the aligned clip.

    The offset is positive when the audio is early (SyncNet's sign: delay the audio by that much).
    """

    name = "measure_sync"

    def __init__(self, model: LipSync) -> None:
        self.model = model

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.lip_points is not None and clip.audio is not None
        score = self.model.score(clip.lip_points, clip.audio)
        return [
            clip.measured(
                av_offset_frames=score.offset_frames,
                sync_confidence=score.confidence,
                sync_distance=score.distance,
                sync_model=self.model.name,
            )
        ]
