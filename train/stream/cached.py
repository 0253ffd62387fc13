"""The parts of training samples that cached features hold. Nothing is decoded for them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipforge.model.audio.windows import HALF_WINDOW_FRAMES, NUM_ROWS, ROWS_PER_FRAME
from lipforge.train.features.store import FeatureStore, Rows
from lipforge.train.stream.config import FeatureKind, StreamConfig
from lipforge.train.stream.decode import ClipWindow, DamagedSampleError, Outcome
from lipforge.train.stream.windows import mel_columns


@dataclass(frozen=True)
class _Part:
    """Which rows of a feature a part of a sample needs, and what is made of them."""

    name: str
    rows: Rows
    make: Callable[[np.ndarray], np.ndarray] = lambda rows: rows


class CachedParts:
    """Reads what features hold of the samples of a stream."""

    def __init__(self, store: FeatureStore, config: StreamConfig) -> None:
        self._store = store
        self._kinds = config.feature_kinds
        self._task = config.task
        self._num_frames = config.num_frames

    def read(self, clips: Sequence[ClipWindow]) -> list[Outcome]:
        """The parts of each sample by name, as `lipforge.train.stream.stream.Batch` describes them; or what is wrong with a sample's features.

        All are read at once. Errors of a shard that is gone are those of FeatureStore.read_rows.
        """
        wanted = [list(self._parts(clip)) for clip in clips]
        arrays = iter(self._store.try_rows([part.rows for parts in wanted for part in parts]))
        return [_made(parts, [next(arrays) for _ in parts]) for parts in wanted]

    def _parts(self, clip: ClipWindow) -> Iterable[_Part]:
        start, other_start = clip.window.start, clip.window.other_start
        if "whisper" in self._kinds:
            yield _audio_features(clip, self._num_frames)
        if "mel" in self._kinds:
            yield _mel("mel", clip.key, start, self._num_frames)
            if self._task == "syncnet":
                yield _mel("negative_mel", clip.key, other_start, self._num_frames)
        if "vae_target" in self._kinds:
            places: tuple[tuple[str, FeatureKind, int], ...] = (
                ("target_moments", "vae_target", start),
                ("masked_moments", "vae_masked", start),
                ("reference_moments", "vae_target", other_start),
            )
            for name, kind, first in places:
                yield _Part(name, Rows(clip.key, kind, first, first + self._num_frames))


def _made(parts: Sequence[_Part], arrays: Sequence[np.ndarray | DamagedSampleError]) -> Outcome:
    made: dict[str, Any] = {}
    for part, array in zip(parts, arrays, strict=True):
        if isinstance(array, DamagedSampleError):
            return array
        made[part.name] = part.make(array)
    return made


def _audio_features(clip: ClipWindow, num_frames: int) -> _Part:
    """What the target's frames hear, with edge rows repeated beyond the ends of the clip; so all windows have equally many rows."""
    last = ROWS_PER_FRAME * clip.clip_frames - 1
    first = ROWS_PER_FRAME * (clip.window.start - HALF_WINDOW_FRAMES)
    rows = np.clip(np.arange(first, first + ROWS_PER_FRAME * (num_frames - 1) + NUM_ROWS), 0, last)
    return _Part(
        "audio_features",
        Rows(clip.key, "whisper", int(rows[0]), int(rows[-1]) + 1),
        lambda stored: stored[rows - rows[0]],
    )


def _mel(name: str, key: str, start: int, num_frames: int) -> _Part:
    first, count = mel_columns(start, num_frames)
    return _Part(name, Rows(key, "mel", first, first + count), lambda stored: stored.T.astype(np.float32))
