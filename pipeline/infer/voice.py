"""What a model hears around any moment of the new sound, in bounded memory however long it is."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from lipforge.model.audio.language import read_whisper_file
from lipforge.model.audio.mel import HOP, mel_spectrogram
from lipforge.model.audio.tokens import mel_tokens, whisper_tokens
from lipforge.model.audio.whisper import SAMPLES_PER_ROW, WhisperFeatures
from lipforge.model.audio.windows import HALF_WINDOW_FRAMES, NUM_ROWS, ROWS_PER_FRAME
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.model.sync.hearing import LOOKS_AHEAD_S, SAMPLES_PER_LEVEL, LipHearing, loud_moments
from lipforge.model.weights import load as weights
from lipforge.pipeline.infer.protocols import Voice
from lipforge.pipeline.infer.sound import ReadSamples, reader_of
from lipforge.pipeline.media.output.sound import SoundTrack

MEL, LIP_SYNC = "mel", "lip_sync"
"""Audio encoders that need no download."""
_MEL_MARGIN_COLUMNS = 3
"""A mel column depends on 401 samples to each side: less than 3 hops of 200."""
_ROWS_PER_S = SAMPLE_RATE_HZ // SAMPLES_PER_ROW
WINDOW_ROWS, OVERLAP_ROWS = 1500, 250
"""Whisper takes 30 s; windows share 5 s, in which one goes over into the next."""
_SAMPLES_PER_COLUMN = 160
_MARGIN_COLUMNS = 2
"""A column of Whisper's spectrogram depends on 200 samples to each side."""


_LIVE_S = 8
_LIVE_ROWS = _LIVE_S * _ROWS_PER_S


class MelVoice:
    """For models that need no file: mel columns."""

    looks_ahead_s = _MEL_MARGIN_COLUMNS * HOP / SAMPLE_RATE_HZ

    def __init__(self, read: ReadSamples, duration_s: float) -> None:
        self._read, self.duration_s = read, duration_s

    def tokens(self, times_s: np.ndarray) -> Tensor:
        """float32 [T, 16, 96], of one window of consecutive frames: columns beyond its ends repeat, as in training."""
        num_frames = len(times_s)
        first = round(float(times_s[0]) * SAMPLE_RATE_HZ / HOP)
        num_columns = -(-num_frames * 16 // 5)
        begin = (first - _MEL_MARGIN_COLUMNS) * HOP
        samples = self._read(begin, (first + num_columns + _MEL_MARGIN_COLUMNS) * HOP)
        columns = mel_spectrogram(samples)[:, _MEL_MARGIN_COLUMNS : _MEL_MARGIN_COLUMNS + num_columns]
        late_s = times_s - times_s[0] - np.arange(num_frames) / FPS
        shifts = np.rint(late_s * SAMPLE_RATE_HZ / HOP).astype(np.int64)
        return mel_tokens(torch.from_numpy(np.ascontiguousarray(columns)), torch.from_numpy(shifts))


class LipVoice:
    """For models that hear as the built-in lip-sync scorer does."""

    looks_ahead_s = LOOKS_AHEAD_S

    def __init__(self, hearing: LipHearing, read: ReadSamples, duration_s: float) -> None:
        self._hearing, self._read, self.duration_s = hearing, read, duration_s
        self._loud = None if math.isinf(duration_s) else loud_moments(read, round(duration_s * SAMPLE_RATE_HZ))

    def tokens(self, times_s: np.ndarray) -> Tensor:
        """float32 [T, 1, 384]. Sound that is still coming is as loud as what came in the last seconds."""
        rows = np.rint(times_s * SAMPLE_RATE_HZ / SAMPLES_PER_LEVEL).astype(np.int64)
        loud = self._loud
        if loud is None:
            end = int(rows[-1]) * SAMPLES_PER_LEVEL
            begin = max(0, end - _LIVE_S * SAMPLE_RATE_HZ)
            loud = loud_moments(lambda first, last: self._read(begin + first, begin + last), max(end - begin, HOP))
        return self._hearing.tokens(self._read, rows, loud)


class WhisperVoice:
    """The states of Whisper's encoder, from windows of 30 s that overlap.

    Published code encodes 30 s after 30 s, each without its neighbours, so that what is heard jumps. Here two windows
    share 5 s and one goes over into the other. A sound of up to 30 s gives the published states.
    """

    looks_ahead_s = HALF_WINDOW_FRAMES / FPS

    def __init__(self, features: WhisperFeatures, read: ReadSamples, duration_s: float) -> None:
        """duration_s: to be heard; where the sound ends before, silence is."""
        self._features, self._read, self.duration_s = features, read, duration_s
        self._num_columns = max(2, round(duration_s * SAMPLE_RATE_HZ) // _SAMPLES_PER_COLUMN)
        self._num_rows = self._num_columns // 2
        self._starts = _window_rows(self._num_rows)
        self._loudest = max(
            float(self._log_mel(first, min(first + 2 * WINDOW_ROWS, self._num_columns)).max())
            for first in range(0, self._num_columns, 2 * WINDOW_ROWS)
        )
        self._kept: dict[int, Tensor] = {}

    def tokens(self, times_s: np.ndarray) -> Tensor:
        """float32 [T, 50, 384] for whisper-tiny: 10 rows of 20 ms around each moment, the nearest ones."""
        first = np.rint(times_s * _ROWS_PER_S).astype(np.int64) - ROWS_PER_FRAME * HALF_WINDOW_FRAMES
        rows = np.clip(first[:, None] + np.arange(NUM_ROWS), 0, self._num_rows - 1)
        begin = int(rows.min())
        return whisper_tokens(self._states(begin, int(rows.max()) + 1), torch.from_numpy(rows - begin))

    def _states(self, first: int, end: int) -> Tensor:
        """[end - first, S, D]"""
        found: Tensor | None = None
        for number, start in enumerate(self._starts):
            stop = min(start + WINDOW_ROWS, self._num_rows)
            low, high = max(first, start), min(end, stop)
            if low >= high:
                continue
            part = self._window(number)[low - start : high - start]
            if found is None:
                found = part
                continue
            shared = first + len(found) - low
            begins, ends = start, self._starts[number - 1] + WINDOW_ROWS
            share = ((torch.arange(low, low + shared) - begins + 0.5) / (ends - begins)).reshape(-1, 1, 1)
            mixed = (1 - share) * found[len(found) - shared :] + share * part[:shared]
            found = torch.cat([found[: len(found) - shared], mixed, part[shared:]])
        assert found is not None and len(found) == end - first
        return found

    def _window(self, number: int) -> Tensor:
        if number not in self._kept:
            while len(self._kept) > 1:
                del self._kept[min(self._kept)]
            first = 2 * self._starts[number]
            end = min(first + 2 * WINDOW_ROWS, self._num_columns)
            self._kept[number] = self._features.encode_scaled(self._log_mel(first, end), self._loudest)
        return self._kept[number]

    def _log_mel(self, first: int, end: int) -> Tensor:
        """Columns [first, end) of the whole sound's spectrogram."""
        before, after = min(_MARGIN_COLUMNS, first), min(_MARGIN_COLUMNS, self._num_columns - end)
        samples = self._read((first - before) * _SAMPLES_PER_COLUMN, (end + after) * _SAMPLES_PER_COLUMN)
        return self._features.log_mel(samples)[:, before : before + end - first]


class LiveWhisperVoice:
    """Whisper's states of sound that is still coming: the encoder hears the last seconds, anew for each window."""

    looks_ahead_s = HALF_WINDOW_FRAMES / FPS + _MARGIN_COLUMNS * _SAMPLES_PER_COLUMN / SAMPLE_RATE_HZ
    duration_s = float("inf")

    def __init__(self, features: WhisperFeatures, read: ReadSamples) -> None:
        self._features, self._read = features, read
        self._loudest = -10.0

    def tokens(self, times_s: np.ndarray) -> Tensor:
        """As `WhisperVoice.tokens`, from the 8 s before, the length of a training clip."""
        first = np.rint(times_s * _ROWS_PER_S).astype(np.int64) - ROWS_PER_FRAME * HALF_WINDOW_FRAMES
        rows = np.maximum(first[:, None] + np.arange(NUM_ROWS), 0)
        end = int(rows.max()) + 1
        begin = max(0, end - _LIVE_ROWS)
        margin = _MARGIN_COLUMNS if begin else 0
        low, high = 2 * begin - margin, 2 * end + _MARGIN_COLUMNS
        mel = self._features.log_mel(self._read(low * _SAMPLES_PER_COLUMN, high * _SAMPLES_PER_COLUMN))
        mel = mel[:, margin : margin + 2 * (end - begin)]
        self._loudest = max(self._loudest, float(mel.max()))
        states = self._features.encode_scaled(mel, self._loudest)
        return whisper_tokens(states, torch.from_numpy(np.maximum(rows - begin, 0)))


def _window_rows(num_rows: int) -> list[int]:
    """First rows of the windows: each shares OVERLAP_ROWS with the next; the last ends with the sound."""
    starts = list(range(0, max(1, num_rows - OVERLAP_ROWS), WINDOW_ROWS - OVERLAP_ROWS))
    return starts


def open_voice(sound: SoundTrack, audio_encoder: str, until_s: float = 0.0) -> Voice:
    """A sound, for a model that hears by `audio_encoder`: mel, or a Whisper checkpoint; empty: it hears nothing.

    until_s: how long it is to be heard, at least; after its end is silence. Raises ModelFileError for Whisper's file.
    """
    read = reader_of(sound)
    if audio_encoder in ("", MEL):
        return MelVoice(read, sound.duration_s)
    if audio_encoder == LIP_SYNC:
        return LipVoice(open_hearing(), read, sound.duration_s)
    return WhisperVoice(open_whisper(audio_encoder), read, max(sound.duration_s, until_s))


def open_live_voice(read: ReadSamples, audio_encoder: str) -> Voice:
    """Sound that is still coming. read: waits until samples are there. Raises ModelFileError for Whisper's file."""
    if audio_encoder in ("", MEL):
        return MelVoice(read, float("inf"))
    if audio_encoder == LIP_SYNC:
        return LipVoice(open_hearing(), read, float("inf"))
    return LiveWhisperVoice(open_whisper(audio_encoder), read)


@functools.cache
def open_hearing() -> LipHearing:
    """Of the scorer that ships, loaded once in a process. Raises ModelFileError."""
    return LipHearing(weights.load("builtin")["lip_sync.safetensors"])


@functools.lru_cache(maxsize=1)
def open_whisper(audio_encoder: str) -> WhisperFeatures:
    """A checkpoint by name or path, loaded once in a process. Raises ModelFileError."""
    name, content = read_whisper_file(audio_encoder)
    return WhisperFeatures(content, name)
