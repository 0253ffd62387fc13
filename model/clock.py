"""The clock of everything after the stage `resample`: 25 frames and 16,000 mono audio samples per second."""

FPS = 25
"""Frames per second."""
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
SYNC_MARGIN_FRAMES = 15
"""Largest AV offset that is searched, in frames either way. Until it is stored, a clip has this much more audio on both
sides."""
