"""What the U-Net hears: tokens for each frame, from Whisper's states or from the mel spectrogram."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lipforge.model.audio.language import read_whisper_file
from lipforge.model.audio.mel import MEL_RECIPE
from lipforge.model.audio.tokens import MEL_WIDTH, mel_tokens, whisper_tokens
from lipforge.model.clock import SAMPLE_RATE_HZ
from lipforge.model.sync.builtin import MEL_PER_FRAME
from lipforge.model.sync.hearing import loud_moments
from lipforge.pipeline.infer.protocols import Voice
from lipforge.pipeline.infer.sound import ReadSamples
from lipforge.pipeline.infer.voice import LIP_SYNC, LipVoice, MelVoice, WhisperVoice, open_hearing
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.config import FeatureKind


class AudioEncoder(Protocol):
    """Frozen: the same samples always give the same tokens."""

    kind: FeatureKind | None
    """The cached feature that replaces its computation."""
    sha256: str
    """The model that must have made it."""
    width: int
    """D."""

    def tokens(self, batch: Batch) -> Tensor:
        """float32 [B, T, K, D], on the CPU: K tokens of the moments around each frame."""
        ...

    def voice(self, audio: np.ndarray) -> Voice:
        """What inference gives for any moments of a sound, float32 [N] at 16 kHz; beyond its ends is silence."""
        ...


class WhisperTokens:
    """As published: 10 rows of 5 states around each frame, K = 50 and D = 384 for whisper-tiny."""

    kind: FeatureKind | None = "whisper"

    def __init__(self, content: bytes, name: str) -> None:
        """Raises ModelFileError."""
        from lipforge.model.audio.whisper import WhisperFeatures

        self._whisper = WhisperFeatures(content, name)
        self.sha256 = self._whisper.sha256
        self.width = self._whisper.width

    def tokens(self, batch: Batch) -> Tensor:
        if "audio_features" in batch:
            states = batch["audio_features"].float()
        else:
            states = [torch.from_numpy(self._whisper.encode(audio.numpy())) for audio in batch["audio"]]
        return torch.stack([whisper_tokens(*both) for both in zip(states, batch["audio_rows"], strict=True)])

    def voice(self, audio: np.ndarray) -> Voice:
        return WhisperVoice(self._whisper, _reader(audio), len(audio) / SAMPLE_RATE_HZ)


class MelTokens:
    """No file needed: the 16 mel columns around each frame, K = 16 and D = 96."""

    kind: FeatureKind | None = "mel"
    sha256 = MEL_RECIPE
    width = MEL_WIDTH

    def tokens(self, batch: Batch) -> Tensor:
        return mel_tokens(batch["mel"])

    def voice(self, audio: np.ndarray) -> Voice:
        return MelVoice(_reader(audio), len(audio) / SAMPLE_RATE_HZ)


class LipTokens:
    """No file needed: what the built-in scorer hears around each frame, K = 1 and D = 384. Needs the clips' sound."""

    kind: FeatureKind | None = None

    def __init__(self) -> None:
        self._hearing = open_hearing()
        self.sha256, self.width = self._hearing.sha256, self._hearing.width

    def tokens(self, batch: Batch) -> Tensor:
        num_frames = batch["audio_rows"].shape[1]
        found = []
        for audio, start in zip(batch["audio"], batch["start"].tolist(), strict=True):
            read = _reader(audio.numpy())
            rows = np.arange(start, start + num_frames) * MEL_PER_FRAME
            found.append(self._hearing.tokens(read, rows, loud_moments(read, len(audio))))
        return torch.stack(found)

    def voice(self, audio: np.ndarray) -> Voice:
        return LipVoice(self._hearing, _reader(audio), len(audio) / SAMPLE_RATE_HZ)


def _reader(audio: np.ndarray) -> ReadSamples:
    """Samples [begin, end) of a sound; zeros beyond its ends."""

    def read(begin: int, end: int) -> np.ndarray:
        before, after = max(0, -begin), max(0, end - len(audio))
        return np.pad(audio[max(0, begin) : max(0, end)], (before, after))[: end - begin]

    return read


def open_audio_encoder(name: str) -> AudioEncoder:
    """name: `mel`, `lip_sync`, a checkpoint of Whisper by name once fetched, or its path. Raises ModelFileError."""
    if name == "mel":
        return MelTokens()
    if name == LIP_SYNC:
        return LipTokens()
    file_name, content = read_whisper_file(name)
    return WhisperTokens(content, file_name)
