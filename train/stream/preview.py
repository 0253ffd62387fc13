"""Contact sheet of the samples of a stream: python -m train.stream.preview SELECTION OUT.png

One line per sample: target frames, the same with the mouth hidden (where the crops are latentsync's), reference frames,
each with its number in the clip, and the mel of the target with the times of the shown frames.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from lipforge.datasets_manifest.storage.files import open_place, publish
from lipforge.model.clock import FPS
from lipforge.model.denoiser.mask import hide_mouth, to_pixels
from lipforge.train.drawing import BLACK, GAP_PX, SIDE_PX, TEXT_PX, WHITE, caption, encode_png, strip, write
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import MEL_COLUMNS_PER_S, DamagedSampleError
from lipforge.train.stream.stream import SampleStream

NUM_SHOWN = 4


def draw_sheet(selection: str, num_samples: int, split: str | None = None, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] RGB.

    num_samples: lines, at least 1. split: train or val; None: both. Errors are those of SampleStream.
    """
    config = StreamConfig.model_validate({"selection": selection, "split": split, "num_workers": 0, "seed": seed})
    batches = islice(SampleStream(config, num_epochs=1), num_samples)
    lines = [_line(batch) for batch in batches]
    return np.concatenate([_captions(lines[0].shape[1]), *lines])


def _captions(width: int) -> np.ndarray:
    row = np.full((TEXT_PX, width, 3), 255, np.uint8)
    strip_px = NUM_SHOWN * SIDE_PX + GAP_PX
    for number, text in enumerate(("target", "target, mouth hidden", "reference", "mel of the target")):
        write(row, text, (number * strip_px + 2, 13), BLACK)
    return row


def _line(batch: Batch) -> np.ndarray:
    """One sample, with evenly spaced frames."""
    (target,), (reference,) = batch["target"], batch["reference"]
    shown = np.linspace(0, len(target) - 1, NUM_SHOWN).round().astype(int)
    pixels = to_pixels(target[shown], target.shape[-2])
    masked = hide_mouth(pixels, batch["mouth_mask"]) if "mouth_mask" in batch else pixels
    start, reference_start = int(batch["start"]), int(batch["reference_start"])
    gap = np.full((SIDE_PX, GAP_PX, 3), 255, np.uint8)
    strips = (
        strip(target[shown].numpy(), shown + start),
        strip(((masked.movedim(1, -1).numpy() + 1) * 127.5).round().astype(np.uint8), shown + start),
        strip(reference[shown].numpy(), shown + reference_start),
        _mel_image(batch["mel"][0].numpy(), shown, start),
    )
    row = np.concatenate([image for drawn in strips for image in (drawn, gap)], axis=1)
    return np.concatenate([caption(batch["key"][0], row.shape[1]), row])


def _mel_image(mel: np.ndarray, shown: np.ndarray, start: int) -> np.ndarray:
    """Low frequencies at the bottom, loud is bright; a line at the middle of each shown frame."""
    grey = ((mel[::-1] + 4) / 8 * 255).astype(np.uint8)
    width = 2 * SIDE_PX
    image = cv2.applyColorMap(cv2.resize(grey, (width, SIDE_PX), interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS)
    image = np.ascontiguousarray(image[:, :, ::-1])
    for frame in shown:
        middle_px = round((frame + 0.5) * MEL_COLUMNS_PER_S / FPS / mel.shape[1] * width)
        cv2.line(image, (middle_px, SIDE_PX - 6), (middle_px, SIDE_PX - 1), WHITE, 1)
        write(image, str(start + frame), (min(middle_px - 6, width - 24), SIDE_PX - 9), WHITE)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selection", help="Parquet file of `lipforge select`")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--samples", type=int, default=12, help="lines (default: 12)")
    parser.add_argument("--split", choices=("train", "val"), help="(default: both)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error(f"--samples is {arguments.samples}: expected 1 or more")
    if arguments.out.suffix != ".png":
        parser.error(f"{arguments.out}: expected a name that ends in .png")
    try:
        sheet = draw_sheet(arguments.selection, arguments.samples, arguments.split, arguments.seed)
        publish(*open_place(str(arguments.out)), encode_png(sheet))
        print(arguments.out)  # noqa: T201
    except (OSError, ValueError, DamagedSampleError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
