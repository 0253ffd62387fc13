"""Encode a clip, its only lossy step."""

from dataclasses import replace

from lipforge.datasets_manifest.schema import Stage
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_jpeg, encode_mp4


class EncodeClip:
    """Encodes the frames as H.264. Keeps pixels only for later stages: the first, middle and last frame.

    Adds  mp4;  quality_frames: uint8 [3, S, S, 3];  `lossy_generations`;  scored_mp4, for a template other than
    latentsync, if lip-sync is scored from pixels.
    """

    name = Stage.ENCODE

    def __init__(self, config: EncodeConfig) -> None:
        self.config = config

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.frames is not None
        scored = clip.frames if clip.scored_frames is None else clip.scored_frames
        from_pixels = clip.scored_frames is not None and clip.lip_points is None
        encoded = replace(
            clip,
            mp4=encode_mp4(clip.frames, self.config),
            scored_mp4=encode_mp4(scored, self.config) if from_pixels else b"",
            quality_frames=scored[[0, len(scored) // 2, -1]],
        )
        return [encoded.measured(lossy_generations=1)]


def poster_of(clip: Clip) -> bytes:
    """Small JPEG of what was seen of a clip that is not encoded; empty when nothing was."""
    if clip.pieces:
        return encode_jpeg(clip.pieces[len(clip.pieces) // 2].rgb)
    return b""
