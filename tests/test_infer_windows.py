"""Windows that overlap: every frame once and in order, the same wherever a stream begins, and soft seams."""

import numpy as np
import pytest
import torch

from lipforge.model.clock import FPS
from lipforge.pipeline.infer.windows import MouthStream, window_starts


class Marker:
    """Draws the mean of each face plus a number that only this window has."""

    name, sha256, resolution, window_frames, audio_encoder = "marker", "", 4, 16, "clock"

    def __init__(self, noise: float = 1.0) -> None:
        self.noise = noise
        self.heard: list[np.ndarray] = []

    def draw(self, faces: np.ndarray, tokens: torch.Tensor | None) -> torch.Tensor:
        assert len(faces) == 16 and tokens is not None and len(tokens) == 16
        own = np.random.default_rng(int(tokens[0, 0, 0] * FPS + 0.5)).normal(scale=self.noise)
        return torch.from_numpy(faces.astype(np.float32).mean(axis=(1, 2))) + own

    def show(self, drawn: torch.Tensor) -> np.ndarray:
        return drawn.numpy()[:, None, None].repeat(4, 1).repeat(4, 2)


class Clock:
    duration_s = 100.0

    def tokens(self, times_s: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(times_s)[:, None, None]


def drawn(num_frames: int, wanted: int = 0, noise: float = 1.0) -> list[tuple[int, float]]:
    stream = MouthStream(Marker(noise), Clock(), wanted, num_frames)
    found = []
    for number in range(stream.first, num_frames):
        stream.push(np.full((4, 4, 3), number, np.uint8), number / FPS)
        found += stream.ready()
    stream.finish()
    return [(number, float(face.mean())) for number, face in [*found, *stream.ready()]]


@pytest.mark.parametrize("num_frames", [1, 2, 5, 15, 16, 17, 27, 28, 29, 41, 64, 100])
def test_every_frame_is_drawn_once_and_in_order(num_frames: int):
    found = drawn(num_frames, noise=0)
    assert [number for number, _ in found] == list(range(num_frames))
    np.testing.assert_allclose([value for _, value in found], np.arange(num_frames), atol=1e-4)


@pytest.mark.parametrize("num_frames", [7, 16, 29, 41, 53])
def test_a_stream_that_begins_in_the_middle_draws_the_same(num_frames: int):
    whole = drawn(num_frames)
    for wanted in range(num_frames):
        assert drawn(num_frames, wanted) == whole[wanted:]


def test_a_step_between_windows_is_spread_over_their_overlap():
    values = np.array([value for _, value in drawn(160)]) - np.arange(160)
    own = [np.random.default_rng(start).normal() for start in window_starts(160, 16, 12)]
    largest_step = np.abs(np.diff(own)).max()
    assert largest_step > 0.5
    assert np.abs(np.diff(values)).max() <= largest_step / 5 + 1e-3


def test_windows_cover_a_run_and_the_last_one_is_full():
    assert window_starts(10, 16, 12) == [0]
    assert window_starts(16, 16, 12) == [0]
    assert window_starts(30, 16, 12) == [0, 12, 14]
    assert window_starts(40, 16, 12) == [0, 12, 24]


def test_memory_does_not_grow_with_the_run():
    stream = MouthStream(Marker(), Clock(), 0, 5000)
    for number in range(5000):
        stream.push(np.zeros((4, 4, 3), np.uint8), number / FPS)
        stream.ready()
        assert len(stream._faces) <= 2 * 16
