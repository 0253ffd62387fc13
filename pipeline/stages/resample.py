"""Put picture and sound on one clock: 25 fps and 16 kHz."""

from collections.abc import Iterator

import numpy as np

from pipeline import media
from pipeline.clip import Clip, Frame, Unit
from pipeline.config import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES


class Resample:
    """Decodes a unit once: its sound first, as one array, then its pictures, as a stream.

    Sound has SYNC_MARGIN_FRAMES more on both sides, so that it can be shifted later and still come from the source.
    """

    name = "resample"

    def audio(self, unit: Unit) -> np.ndarray:
        """float32 [(num_frames + 2 * SYNC_MARGIN_FRAMES) * 640], mono, 16 kHz."""
        info = unit.video.info
        assert info is not None
        first, end = unit.start_frame - SYNC_MARGIN_FRAMES, unit.end_frame + SYNC_MARGIN_FRAMES
        return media.read_audio(unit.video.source.uri, info, first, end)

    def frames(self, unit: Unit, count: media.DecodeCount) -> Iterator[Frame]:
        info = unit.video.info
        assert info is not None
        for index, rgb in media.read_frames(unit.video.source.uri, info, unit.start_frame, unit.end_frame, count):
            yield Frame(index=index, rgb=rgb)


def audio_of(clip: Clip, unit_audio: np.ndarray) -> np.ndarray:
    """A clip's part of its unit's sound, with the same margins."""
    first = (clip.start_frame - clip.unit.start_frame) * SAMPLES_PER_FRAME
    length = (clip.num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    return unit_audio[first : first + length].copy()
