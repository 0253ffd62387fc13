"""Clips of flashes and clicks, and the offset between them."""

from pathlib import Path

import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from tests.talking_photo import write_clip


def click_clip(path: Path, duration_s: float = 6.0, fps: int = FPS, size_px: int = 128, channels: int = 1) -> Path:
    """Black video; at 1 s, 2 s, ... one white frame, and a click centred on that frame's timestamp."""
    times_s = np.arange(1, int(np.ceil(duration_s)))
    frames = np.zeros((round(duration_s * fps), size_px, size_px, 3), np.uint8)
    frames[times_s * fps] = 255
    sample_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    audio = np.zeros(len(sample_s))
    for time_s in times_s:  # 2 ms of 2 kHz, symmetric
        away_s = sample_s - time_s
        audio += 0.8 * np.exp(-((away_s / 0.001) ** 2)) * np.cos(2 * np.pi * 2000 * away_s)
    write_clip(path, iter(frames), audio.astype(np.float32), fps=fps, channels=channels)
    return path


def measure_click_offset_s(
    frame_times_s: np.ndarray, frames: np.ndarray, audio: np.ndarray, audio_start_s: float = 0.0
) -> np.ndarray:
    """Seconds from each click to its flash, one value per flash; positive = the audio is early.

    frame_times_s: [T]; frames: uint8 [T, H, W, 3]; audio: float32 [N] mono at 16 kHz, first sample at audio_start_s.
    Raises ValueError when clicks and flashes do not pair up within 0.5 s.
    """
    brightness = frames.reshape(len(frames), -1).mean(axis=1)
    bright = brightness > 100
    starts = np.flatnonzero(bright & ~np.append(False, bright[:-1]))  # a repeated flash counts from its first frame
    power = audio.astype(np.float64) ** 2
    window = round(0.02 * SAMPLE_RATE_HZ)
    offsets = []
    for flash_s in frame_times_s[starts]:
        centre = (flash_s - audio_start_s) * SAMPLE_RATE_HZ
        low = max(0, round(centre - 0.5 * SAMPLE_RATE_HZ))
        near = power[low : max(0, round(centre + 0.5 * SAMPLE_RATE_HZ))]
        if near.max(initial=0.0) < 1e-3:
            raise ValueError(f"no click within 0.5 s of the flash at {flash_s:.3f} s")
        peak = low + int(near.argmax())
        around = np.arange(max(0, peak - window), min(len(power), peak + window))
        click_s = audio_start_s + float(np.average(around, weights=power[around])) / SAMPLE_RATE_HZ
        offsets.append(flash_s - click_s)
    if not offsets:
        raise ValueError("no flash in the video")
    return np.array(offsets)
