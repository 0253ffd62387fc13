"""Drawing on pictures, for the sheets that a person looks at. Images are uint8 [H, W, 3] RGB."""

import cv2
import numpy as np

SIDE_PX = 128
"""Of each frame on a sheet."""
GAP_PX = 8
TEXT_PX = 18
"""Height of a line of text."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4


def write(image: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """place: x, y of the text's lower left. White text gets a black background, to be legible on any image."""
    if colour == WHITE:
        (width, height), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
        x, y = place
        cv2.rectangle(image, (x - 2, y - height - 2), (x + width + 1, y + 2), BLACK, cv2.FILLED)
    cv2.putText(image, text, place, _FONT, _SCALE, colour, 1, cv2.LINE_AA)


def caption(text: str, width: int) -> np.ndarray:
    """A white line of text, [TEXT_PX, width, 3]."""
    row = np.full((TEXT_PX, width, 3), 255, np.uint8)
    write(row, text, (2, 13), BLACK)
    return row


def small(frame: np.ndarray) -> np.ndarray:
    """The frame in SIDE_PX."""
    return cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def strip(frames: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3] side by side, each with its number."""
    images = [small(frame) for frame in frames]
    for image, number in zip(images, numbers, strict=True):
        write(image, str(number), (3, 13), WHITE)
    return np.concatenate(images, axis=1)


def evenly(num_frames: int, num_shown: int) -> np.ndarray:
    """Numbers of the frames to show: the first, the last and those between, each once."""
    return np.unique(np.linspace(0, num_frames - 1, num_shown).round().astype(int))


def encode_png(image: np.ndarray) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
