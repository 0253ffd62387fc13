"""Fields of training samples from cached features. Nothing is decoded for them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lipforge.model.audio.windows import HALF_WINDOW_FRAMES, NUM_ROWS, ROWS_PER_FRAME
from lipforge.model.denoiser.vae import LATENT_CHANNELS, LOWEST_LOGVAR
from lipforge.train.features.store import FeatureRows, FeatureStore
from lipforge.train.stream.decode import DamagedSampleError, Outcome, mel_columns
from lipforge.train.stream.order import ClipWindow


class _Field(NamedTuple):
    """The rows of a feature that a field is made from, and how."""

    name: str
    rows: FeatureRows
    make: Callable[[np.ndarray], np.ndarray] = lambda rows: rows


def read_fields(
    store: FeatureStore, clips: Sequence[ClipWindow], num_frames: int, with_negatives: bool
) -> list[Outcome]:
    """For each clip, the fields that features hold, by name, as `batches.Batch` describes them; or what is wrong with
    its features.

    num_frames: of a window. with_negatives: also the mel of the second window, for a SyncNet. All rows are read at
    once. Errors of a missing shard are those of FeatureStore.read_rows.
    """
    wanted = [list(_fields(clip, num_frames, store.models, with_negatives)) for clip in clips]
    arrays = iter(store.try_rows([field.rows for fields in wanted for field in fields]))
    return [_made(fields, [next(arrays) for _ in fields]) for fields in wanted]


def _fields(clip: ClipWindow, num_frames: int, kinds: Collection[str], with_negatives: bool) -> Iterator[_Field]:
    if "whisper" in kinds:
        yield _audio_features(clip, num_frames)
    if "mel" in kinds:
        yield _mel("mel", clip.key, clip.start, num_frames)
        if with_negatives:
            yield _mel("negative_mel", clip.key, clip.other_start, num_frames)
    if "vae_target" in kinds:
        for name, kind, first in (
            ("target_moments", "vae_target", clip.start),
            ("masked_moments", "vae_masked", clip.start),
            ("reference_moments", "vae_target", clip.other_start),
        ):
            yield _Field(name, FeatureRows(clip.key, kind, first, first + num_frames), _moments)


def _made(fields: Sequence[_Field], arrays: Sequence[np.ndarray | DamagedSampleError]) -> Outcome:
    made: dict[str, Any] = {}
    for field, array in zip(fields, arrays, strict=True):
        if isinstance(array, DamagedSampleError):
            return array
        made[field.name] = field.make(array)
    return made


def _audio_features(clip: ClipWindow, num_frames: int) -> _Field:
    """Whisper's rows for the target frames.

    Edge rows repeat beyond the ends of the clip, so all windows have equally many rows.
    """
    last = ROWS_PER_FRAME * clip.clip_frames - 1
    first = ROWS_PER_FRAME * (clip.start - HALF_WINDOW_FRAMES)
    rows = np.clip(np.arange(first, first + ROWS_PER_FRAME * (num_frames - 1) + NUM_ROWS), 0, last)
    return _Field(
        "audio_features",
        FeatureRows(clip.key, "whisper", int(rows[0]), int(rows[-1]) + 1),
        lambda stored: stored[rows - rows[0]],
    )


def _moments(stored: np.ndarray) -> np.ndarray:
    """Mean and log-variance: the lowest, which is none, where the mean alone was stored."""
    if stored.shape[1] > LATENT_CHANNELS:
        return stored
    return np.concatenate([stored, np.full_like(stored, LOWEST_LOGVAR)], axis=1)


def _mel(name: str, key: str, start: int, num_frames: int) -> _Field:
    first, count = mel_columns(start, num_frames)
    return _Field(name, FeatureRows(key, "mel", first, first + count), lambda stored: stored.T.astype(np.float32))
