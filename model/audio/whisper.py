"""Audio features for the denoiser: the states of Whisper's encoder.

LatentSync (ByteDance, Apache-2.0; after MuseTalk) keeps the input of the encoder's blocks (convolutions plus positions)
and the output of each block, all before the last norm: five states for whisper-tiny, 50 rows a second.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.audio.language import load_whisper
from lipforge.model.threads import one_thread

SAMPLES_PER_ROW = 320
"""At 16 kHz: 50 rows a second, 2 for each frame at 25 fps."""
CHUNK_COLUMNS = 3000
"""Columns of Whisper's own spectrogram in one pass of the encoder: 30 s."""


class WhisperFeatures:
    """One checkpoint of openai-whisper, on one CPU thread or a GPU. The same samples always give the same features."""

    def __init__(self, content: bytes, name: str, device: str = "cpu", sha256: str | None = None) -> None:
        """content: the file; name: for messages; sha256: of the file, where it is known.

        Raises ModelFileError as model.audio.language.load_whisper does.
        """
        network = load_whisper(content, name)
        self.sha256 = sha256 or hashlib.sha256(content).hexdigest()
        self.device = device
        self._encoder = network.encoder.to(device)
        self._mel_bands = network.dims.n_mels
        self.width: int = network.dims.n_audio_state
        """D."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Encoder states: float32 [N // 320, S, D], S = blocks + 1 (tiny: 5), D = width (tiny: 384).

        audio: float32 [N], mono at 16 kHz in [-1, 1], N >= 320. The spectrogram is scaled by the whole audio. The
        encoder takes at most 30 s: longer audio is encoded in independent chunks of 30 s, as published, so features
        jump between them. Raises ValueError for other arrays.
        """
        chunks = self.chunks(audio)
        states = torch.cat([self.encode_chunks(chunk[None])[0] for chunk in chunks])
        return states[: len(audio) // SAMPLES_PER_ROW].cpu().numpy()

    def chunks(self, audio: np.ndarray) -> Tensor:
        """What the encoder takes of some audio: float32 [C, bands, 3000], C chunks of 30 s. audio: as for `encode`."""
        from whisper.audio import log_mel_spectrogram

        if audio.ndim != 1 or len(audio) < SAMPLES_PER_ROW or not np.isfinite(audio).all():
            raise ValueError(f"expected mono audio [N >= {SAMPLES_PER_ROW}] of finite samples, got shape {audio.shape}")
        with one_thread(), torch.inference_mode():
            mel = log_mel_spectrogram(np.ascontiguousarray(audio, dtype=np.float32), self._mel_bands)
        return torch.stack([_padded(chunk) for chunk in mel.split(CHUNK_COLUMNS, dim=1)])

    def encode_chunks(self, chunks: Tensor) -> Tensor:
        """States [C, 1500, S, D] of chunks [C, bands, 3000], on the device."""
        encoder = self._encoder
        with one_thread(), torch.inference_mode():
            state = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(chunks.to(self.device)))))
            positions: Tensor = encoder.get_buffer("positional_embedding")
            states = [state.movedim(1, 2) + positions]
            for block in encoder.blocks:
                states.append(block(states[-1]))
            return torch.stack(states, dim=2)

    def log_mel(self, samples: np.ndarray) -> Tensor:
        """float32 [bands, N // 160]: log10 of Whisper's mel spectrogram, at least -10, not yet scaled."""
        from whisper.audio import HOP_LENGTH, N_FFT, mel_filters

        waves = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        spectrum = torch.stft(waves, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True)
        power = spectrum[..., :-1].abs() ** 2
        return torch.clamp(mel_filters("cpu", self._mel_bands) @ power, min=1e-10).log10()

    def encode_scaled(self, log_mel: Tensor, loudest: float) -> Tensor:
        """States [M // 2, S, D] of up to 30 s. log_mel: [bands, M <= 3000]; loudest: the maximum of the whole sound."""
        scaled = (torch.clamp(log_mel, min=loudest - 8.0) + 4.0) / 4.0
        return self.encode_chunks(_padded(scaled)[None])[0, : log_mel.shape[1] // 2]


def _padded(mel: Tensor) -> Tensor:
    """[bands, M <= 3000] to [bands, 3000].

    As published: with zeros of the scaled spectrogram, which do not mean silence.
    """
    return functional.pad(mel, (0, CHUNK_COLUMNS - mel.shape[1]))
