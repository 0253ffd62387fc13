"""The one lossy encode of a clip."""

from dataclasses import replace

from lipforge.datasets_manifest.schema import Stage
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media import reader as media


class EncodeClip:
    """Frames become H.264, and only what later stages look at stays as pixels: the first, middle and last frame.

    Adds  mp4;  quality_frames: uint8 [3, R, R, 3];  `lossy_generations`.
    """

    name = Stage.ENCODE

    def __init__(self, config: EncodeConfig) -> None:
        self.config = config

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.frames is not None
        encoded = replace(
            clip,
            mp4=media.encode_mp4(clip.frames, self.config),
            quality_frames=clip.frames[[0, len(clip.frames) // 2, -1]],
        )
        return [encoded.measured(lossy_generations=1)]


def poster_of(clip: Clip) -> bytes:
    """Small JPEG of what was seen of a clip that is not encoded; empty when nothing was."""
    if clip.pieces:
        return media.encode_jpeg(clip.pieces[len(clip.pieces) // 2].rgb)
    return b""
