"""The clock of everything after the stage `resample`: 25 frames and 16,000 samples of mono sound a second."""

FPS = 25
"""Frames per second."""
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
SYNC_MARGIN_FRAMES = 15
"""Largest AV offset that is searched, in frames either way. A clip carries this much audio on both sides until it is stored."""
