"""What share of a clip is speech, by silero-vad, whose wheel ships the weights.

The network is run here rather than by the package: docs/dependencies.md says why.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from lipforge.model.clock import SAMPLE_RATE_HZ

_WINDOW = 512  # samples per step of the network: 32 ms
_CONTEXT = 64  # samples of the previous window that precede each window
_STATE_SHAPE = (2, 1, 128)

_SILENCE_PEAK = 1e-4
"""A peak below 3 steps of 16 bits is rounding or dither: it gets no gain and counts as no speech."""
_TARGET_PEAK = 0.5
_MAX_GAIN = 100.0
"""40 dB: enough for a recording that peaks at 0.005 to reach the target."""

# How probabilities become speech: as `get_speech_timestamps` of silero_vad 6.2 with min_silence_duration_ms=64.
_ENTER = 0.5
_LEAVE = 0.35
_MIN_SPEECH_WINDOWS = 8  # 250 ms
_MIN_PAUSE_WINDOWS = 3  # 96 ms; a shorter dip does not end speech


class SpeechDetector:
    """Voice activity of one clip at a time, on one CPU thread. The same samples always give the same answer."""

    name = "silero_vad"

    def __init__(self) -> None:
        self.model_file = _model_file()
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(self.model_file), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def speech_ratio(self, audio: np.ndarray) -> float:
        """Share of the time that is speech, 0..1.

        audio: float32 [N] mono at 16 kHz in [-1, 1]. Digital silence (peak below 1e-4) and empty audio give 0. The clip
        is scaled as a whole to a peak of 0.5, by at most 40 dB, so quiet recordings count like loud ones. Music without
        a voice is not speech; rap and singing may be.
        """
        probabilities = self.speech_probabilities(audio)
        return float(_speech_windows(probabilities).mean()) if len(probabilities) else 0.0

    def speech_probabilities(self, audio: np.ndarray) -> np.ndarray:
        """Probability of speech in each 32 ms: float32 [ceil(N / 512)]. No state is kept between calls."""
        if audio.ndim != 1:
            raise ValueError(f"expected mono audio [N], got shape {audio.shape}")
        num_windows = -(-len(audio) // _WINDOW)
        peak = float(np.abs(audio).max(initial=0.0))
        if not np.isfinite(peak):
            raise ValueError("audio has samples that are not finite")
        if peak < _SILENCE_PEAK:
            return np.zeros(num_windows, dtype=np.float32)

        padded = np.zeros(_CONTEXT + num_windows * _WINDOW, dtype=np.float32)
        padded[_CONTEXT : _CONTEXT + len(audio)] = audio * min(_TARGET_PEAK / peak, _MAX_GAIN)
        state = np.zeros(_STATE_SHAPE, dtype=np.float32)
        rate = np.array(SAMPLE_RATE_HZ, dtype=np.int64)
        probabilities = np.empty(num_windows, dtype=np.float32)
        for index in range(num_windows):
            window = padded[None, index * _WINDOW : (index + 1) * _WINDOW + _CONTEXT]
            probability, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            probabilities[index] = np.asarray(probability).item()
        return probabilities


def _model_file() -> Path:
    # Located, not imported: importing it would import torch and change torch's thread count.
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package silero-vad, which ships the speech model, is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


def _speech_windows(probabilities: np.ndarray) -> np.ndarray:
    """Which windows are speech, bool [len(probabilities)].

    Speech begins at 0.5. It ends at the first window below 0.35, if a window two or more later is below it too and 0.5
    is not reached in between. Runs below 250 ms do not count.
    """
    speech = np.zeros(len(probabilities), dtype=bool)
    start: int | None = None
    quiet_since: int | None = None
    for index, probability in enumerate(probabilities):
        if probability >= _ENTER:
            start = index if start is None else start
            quiet_since = None
        elif start is not None and probability < _LEAVE:
            quiet_since = index if quiet_since is None else quiet_since
            if index + 1 - quiet_since >= _MIN_PAUSE_WINDOWS:
                _mark(speech, start, quiet_since)
                start = quiet_since = None
    if start is not None:
        _mark(speech, start, len(speech))
    return speech


def _mark(speech: np.ndarray, start: int, end: int) -> None:
    if end - start >= _MIN_SPEECH_WINDOWS:
        speech[start:end] = True
