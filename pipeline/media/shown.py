"""Small videos with sound, for people to look at."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ

_SOUND_HZ = 48_000
_BLOCK = 4096


def write_shown(path: Path, frames: np.ndarray, audio: np.ndarray) -> None:
    """H.264 and AAC in MP4 at 25 fps.

    frames: uint8 [T, H, W, 3] RGB, even sides; audio: float32 [T * 640] mono at 16 kHz.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video: Any = container.add_stream(
            "libx264", rate=FPS, options={"crf": "23", "preset": "veryfast", "threads": "1"}
        )
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        sound: Any = container.add_stream("aac", rate=_SOUND_HZ, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        resampler = av.AudioResampler("fltp", "mono", _SOUND_HZ)
        for first in range(0, len(audio), _BLOCK):
            block = av.AudioFrame.from_ndarray(audio[None, first : first + _BLOCK], format="flt", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE_HZ, first
            for resampled in resampler.resample(block):
                container.mux(sound.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(sound.encode(resampled))
        container.mux(sound.encode(None))
