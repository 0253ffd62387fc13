"""Pictures of a run: what a validation drew, as one sheet, and as a film that TensorBoard plays.

A drawing is a list of samples; a sample is a mapping from a label to its frames: target, masked, estimate, reference
today, generated video tomorrow.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from lipforge.model.clock import FPS
from lipforge.train.drawing import GAP_PX, SIDE_PX, caption, evenly, small, strip

NUM_SHOWN = 8
"""Frames of a window on a sheet."""
Rows = Sequence[tuple[str, np.ndarray]]
"""Label and frames, uint8 [T, H, W, 3] RGB; T may differ between rows, and so may the size."""


def to_frames(pixels: Tensor) -> np.ndarray:
    """Pixels [T, 3, R, R] in about -1..1 to frames, uint8 [T, R, R, 3]."""
    values = ((pixels.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return values.byte().movedim(1, -1).numpy()


def rows_of(sample: Mapping[str, Tensor]) -> Rows:
    """sample: pixels [T, 3, R, R] in -1..1 by label."""
    return [(label, to_frames(pixels)) for label, pixels in sample.items()]


def contact_sheet(rows: Rows) -> np.ndarray:
    """uint8 [H, W, 3]: a line for each row, with its label and evenly spaced, numbered frames."""
    lines = []
    for label, frames in rows:
        shown = evenly(len(frames), NUM_SHOWN)
        pictures = strip(frames[shown], shown)
        lines.append(np.concatenate([caption(label, pictures.shape[1]), pictures]))
    return stacked(lines)


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images below each other, with white to the right of narrow ones and a gap between them."""
    width = max(image.shape[1] for image in images)
    gap = np.full((GAP_PX, width, 3), 255, np.uint8)
    padded = [np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=255) for image in images]
    return np.concatenate([part for image in padded for part in (image, gap)])


def film(rows: Rows) -> bytes:
    """A GIF, 25 frames a second: the rows side by side, each below its label. Short rows stand still at their end."""
    length = max(len(frames) for _, frames in rows)
    titles = np.concatenate([caption(label, SIDE_PX) for label, _ in rows], axis=1)
    images = []
    for number in range(length):
        faces = [small(frames[min(number, len(frames) - 1)]) for _, frames in rows]
        image = Image.fromarray(np.concatenate([titles, np.concatenate(faces, axis=1)]))
        images.append(image.quantize(method=Image.Quantize.FASTOCTREE))  # ten times as fast as what `save` does
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0)
    return buffer.getvalue()
