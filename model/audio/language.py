"""Which language is spoken, by Whisper's own language head (Radford et al. 2022, arXiv:2212.04356, section 2.3).

Whisper predicts a language token before any text, so one encoder pass and one decoder step give a probability for each
language. Published checkpoints of openai-whisper are read as they are; those whose name ends in `.en` are English-only.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import langcodes
import numpy as np
import torch

from lipforge.model.threads import one_thread
from lipforge.model.weights import load as weights
from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict, read_checkpoint

if TYPE_CHECKING:
    from whisper.model import Whisper

PUBLISHED = ("tiny", "base", "small")
"""Names of files of the bundle `whisper` (`lipforge models fetch whisper`)."""

_NUM_AUDIO_STATES = 1500  # for the 30 s that every Whisper takes
_MAX_TEXT_STATES = 448
_MEL_BANDS = (80, 128)
_VOCABULARIES = (51864, 51865, 51866)  # English only; with 99 languages; with Cantonese, since large-v3


def read_whisper_file(whisper: str) -> tuple[str, bytes]:
    """(name, content) of a checkpoint. whisper: one of PUBLISHED, which is hash-checked, or a path.

    Raises MissingModelError, which says how to get it, or ModelFileError for a wrong hash.
    """
    if whisper in PUBLISHED:
        return whisper, weights.load_file(f"{whisper}.pt")
    path = Path(whisper)
    try:
        return path.stem, path.read_bytes()
    except OSError as error:
        raise weights.MissingModelError(
            f"no Whisper checkpoint {whisper} ({error.strerror}): expected the path of a checkpoint of openai-whisper, "
            f"or one of {', '.join(PUBLISHED)} after `lipforge models fetch whisper`"
        ) from error


class LanguageIdentifier:
    """One checkpoint, on one CPU thread or a GPU. On one device, the same samples always give the same answer."""

    def __init__(self, content: bytes, name: str, device: str = "cpu") -> None:
        """content: a file of openai-whisper; name: for `self.name` and messages; device: cpu or cuda.

        Raises ModelFileError when it is English-only or damaged, or when openai-whisper is not installed.
        """
        self.name = f"whisper:{name}"
        self._network = load_whisper(content, name)
        if not self._network.is_multilingual:
            raise ModelFileError(
                f"{name} is an English-only Whisper ({self._network.dims.n_vocab} tokens, none for languages). To "
                f"identify languages, use a multilingual checkpoint: {', '.join(PUBLISHED)}, or another whose name "
                "does not end in .en."
            )
        self._network.to(device)

    def identify(self, audio: np.ndarray) -> tuple[str, float]:
        """(language, its probability): the most likely of Whisper's languages, as a canonical BCP 47 tag.

        audio: float32 [N], mono at 16 kHz in [-1, 1]; only the first 30 s count. Raises ValueError for other arrays.
        """
        from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim
        from whisper.decoding import detect_language

        if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
            raise ValueError(f"expected mono audio [N] of finite samples, got shape {audio.shape}")
        with one_thread(), torch.inference_mode():
            padded = pad_or_trim(np.ascontiguousarray(audio, dtype=np.float32), N_SAMPLES)
            mel = log_mel_spectrogram(padded, self._network.dims.n_mels, device=self._network.device)
            _, found = detect_language(self._network, mel)
        probabilities = cast(dict[str, float], found)  # one spectrogram in, one mapping out
        language = max(sorted(probabilities), key=lambda code: probabilities[code])
        return langcodes.standardize_tag(language), probabilities[language]  # Whisper has jw for Javanese


def load_whisper(content: bytes, name: str) -> "Whisper":
    """The network of an openai-whisper checkpoint, on the CPU in float32, in evaluation mode.

    Raises the errors of LanguageIdentifier.
    """
    try:
        from whisper.model import ModelDimensions, Whisper
    except ImportError as error:
        raise ModelFileError(
            "Whisper needs the package openai-whisper, which is not installed: pip install 'lipforge[train]'"
        ) from error
    tensors, rest = read_checkpoint(content, name, "model_state_dict")
    network = Whisper(ModelDimensions(**_dimensions(tensors, rest.get("dims"), name)))
    load_strict(network, tensors, name)
    return network


def _dimensions(tensors: dict[str, torch.Tensor], dims: Any, name: str) -> dict[str, int]:
    """The sizes that the file states, checked against its tensors: a small file must not build a huge network."""
    try:
        vocabulary, text_state = tensors["decoder.token_embedding.weight"].shape
        audio_state, mel_bands, _ = tensors["encoder.conv1.weight"].shape
        found = {
            "n_mels": mel_bands,
            "n_audio_ctx": tensors["encoder.positional_embedding"].shape[0],
            "n_audio_state": audio_state,
            "n_audio_layer": _num_blocks(tensors, "encoder"),
            "n_vocab": vocabulary,
            "n_text_ctx": tensors["decoder.positional_embedding"].shape[0],
            "n_text_state": text_state,
            "n_text_layer": _num_blocks(tensors, "decoder"),
        }
        heads = {key: dims[key] for key in ("n_audio_head", "n_text_head")}
        agree = (
            {**found, **heads} == dims
            and found["n_audio_ctx"] == _NUM_AUDIO_STATES
            and found["n_text_ctx"] <= _MAX_TEXT_STATES
            and mel_bands in _MEL_BANDS
            and vocabulary in _VOCABULARIES
            and all(isinstance(number, int) and number > 0 for number in heads.values())
            and audio_state % heads["n_audio_head"] == text_state % heads["n_text_head"] == 0
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{name}: not a checkpoint of openai-whisper, which has `dims` and `model_state_dict`: "
            f"{type(error).__name__} {error}"
        ) from error
    if not agree:
        raise ModelFileError(
            f"{name}: its `dims` {dims} do not match its tensors {found}, or are not those of a Whisper"
        )
    return dims


def _num_blocks(tensors: dict[str, torch.Tensor], part: str) -> int:
    prefix = f"{part}.blocks."
    return len({key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix)})
