"""A picture of what a stream gives: python -m train.contact_sheet SELECTION OUT.png

One line a sample: target frames, the same with the mouth hidden, the reference, and the mel of the target's time.
"""

import argparse
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np

from model.mouth_mask import hide_mouth, to_pixels
from train.data import Batch, SampleStream, StreamConfig

SIDE_PX = 112
NUM_SHOWN = 4
_GAP_PX = 8
_TEXT_PX = 20


def draw_sheet(selection: str, num_samples: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] RGB."""
    config = StreamConfig(selection=selection, split=None, num_workers=0, seed=seed)
    batches = islice(SampleStream(config, num_epochs=1), num_samples)
    return np.concatenate([_line(batch) for batch in batches])


def _line(batch: Batch) -> np.ndarray:
    """One sample, its frames at equal distances."""
    (target,), (reference,) = batch["target"], batch["reference"]
    shown = np.linspace(0, len(target) - 1, NUM_SHOWN).round().astype(int)
    mask = batch["mouth_mask"]
    masked = hide_mouth(to_pixels(target[shown], mask.shape[-1]), mask)
    pictures = [
        target[shown].numpy(),
        ((masked.movedim(1, -1).numpy() + 1) * 127.5).round().astype(np.uint8),
        reference[shown].numpy(),
    ]
    gap = np.full((SIDE_PX, _GAP_PX, 3), 255, np.uint8)
    parts = chain.from_iterable((_strip(frames), gap) for frames in pictures)
    row = np.concatenate([*parts, _mel_picture(batch["mel"][0].numpy())], axis=1)
    text = np.full((_TEXT_PX, row.shape[1], 3), 255, np.uint8)
    start, reference_start = int(batch["start"]), int(batch["reference_start"])
    words = f"{batch['key'][0]}   target, masked: from frame {start}   reference: from {reference_start}   mel of the target"
    cv2.putText(text, words, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([text, row])


def _strip(frames: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for frame in frames], axis=1
    )


def _mel_picture(mel: np.ndarray) -> np.ndarray:
    """Low tones at the bottom, loud is bright."""
    grey = ((mel[::-1] + 4) / 8 * 255).astype(np.uint8)
    size = (2 * SIDE_PX, SIDE_PX)
    return cv2.cvtColor(
        cv2.applyColorMap(cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS),
        cv2.COLOR_BGR2RGB,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selection", help="Parquet file of `lipforge select`")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--samples", type=int, default=12, help="lines (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sheet = draw_sheet(arguments.selection, arguments.samples, arguments.seed)
    if not cv2.imwrite(str(arguments.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"{arguments.out} cannot be written: give a name that ends in .png in a folder that exists")


if __name__ == "__main__":
    main()
