"""Does a trained SyncNet find how far sound was moved, on people it never saw?

python -m benchmarks.planted_shifts RUN/model selection.parquet

Of each clip of the val split, the sound is moved by a known number of frames, and the shift with the highest mean
cosine is looked for.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lipforge.datasets_manifest.selection import read_selection
from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.model.denoiser.mask import to_pixels
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import mel_columns_of, syncnet_input
from lipforge.model.trained import load_trained
from lipforge.train.stream.decode import decode_fields, mel_columns
from lipforge.train.stream.fetch import Fetcher
from lipforge.train.stream.order import COLUMNS, ClipWindow, StoredSamples

PLANTED = (-6, -3, 0, 2, 5)
"""Frames by which the sound is early, one a clip in turn."""
SEARCHED_FRAMES = 10
"""Shifts of -10 to 10 frames are compared: chance finds one of 21."""
_STRIDE_FRAMES = 3


@dataclass(frozen=True)
class Found:
    """Shifts in frames at 25 fps, positive where the sound is early."""

    speaker: str
    language: str
    planted: int
    found: int


def find_planted(model: str, selection: str, planted: Sequence[int] = PLANTED) -> list[Found]:
    """model: RUN/model of a SyncNet that sees pixels."""
    network, about = load_trained(model)
    assert isinstance(network, StableSyncNet)
    sees = syncnet_input(model, about["layout"], about["num_frames"])
    rows = read_selection(selection, "val")
    stored = StoredSamples(rows.select(COLUMNS))
    fetcher = Fetcher(stored, None, 0)
    found = []
    labels = rows.select(["speaker", "language"]).to_pylist()
    for number, label in enumerate(labels):
        clip_frames = int(stored.num_frames[number])
        window = ClipWindow(stored.key(number), clip_frames, stored.crop_px, 0, 0)
        members = fetcher.fetch([number], list)[number]
        if isinstance(members, ValueError):
            raise members
        fields = decode_fields(members, window, clip_frames, {"target", "audio"})
        shift = planted[number % len(planted)]
        pixels = to_pixels(torch.from_numpy(fields["target"]), sees.side)
        mel = torch.from_numpy(mel_spectrogram(_moved(fields["audio"], shift)))
        speaker, language = label["speaker"] or "", label["language"] or "und"
        found.append(Found(speaker, language, shift, _best_shift(network, pixels, mel, about["num_frames"])))
    return found


def _moved(audio: np.ndarray, early_frames: int) -> np.ndarray:
    """What was heard at t + shift is heard at t; zeros come in."""
    moved = np.zeros_like(audio)
    shift = early_frames * SAMPLES_PER_FRAME
    if shift >= 0:
        moved[: len(audio) - shift] = audio[shift:]
    else:
        moved[-shift:] = audio[:shift]
    return moved


@torch.inference_mode()
def _best_shift(network: StableSyncNet, pixels: Tensor, mel: Tensor, num_frames: int) -> int:
    """pixels: [N, 3, S, S]; mel: [80, M]."""
    last = len(pixels) - num_frames
    starts = range(SEARCHED_FRAMES, last - SEARCHED_FRAMES, _STRIDE_FRAMES)
    heard = range(last)
    half = pixels.shape[-1] // 2
    frames = torch.stack([pixels[start : start + num_frames, :, half:].flatten(0, 1) for start in starts])
    sounds = [mel[:, first : first + mel_columns_of(num_frames)] for first in (mel_columns(s, 1)[0] for s in heard)]
    vision = functional.normalize(network.visual_encoder(frames).flatten(1))
    audio = functional.normalize(network.audio_encoder(torch.stack(sounds)[:, None]).flatten(1))
    shifts = range(-SEARCHED_FRAMES, SEARCHED_FRAMES + 1)
    means = [
        torch.stack([vision[place] @ audio[start - shift] for place, start in enumerate(starts)]).mean()
        for shift in shifts
    ]
    return shifts[int(torch.stack(means).argmax())]


def in_words(found: Sequence[Found]) -> str:
    errors = np.abs([row.found - row.planted for row in found])
    lines = [
        f"{row.speaker:>14} {row.language:>4}   planted {row.planted:+3d}   found {row.found:+3d}" for row in found
    ]
    share = f"{(errors <= 1).sum()} of {len(found)} within a frame (chance: {3 / (2 * SEARCHED_FRAMES + 1):.0%})"
    return "\n".join([*lines, f"planted shifts on speakers it never saw: {share}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="RUN/model")
    parser.add_argument("selection", help="Parquet file with a val split")
    given = parser.parse_args()
    print(in_words(find_planted(given.model, given.selection)))


if __name__ == "__main__":
    main()
