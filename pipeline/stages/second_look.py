"""A second look at both sides of what the shot detector takes for a cut: is it another picture, or the same one?

The detector asks whether a frame changes more than its neighbours. That is also true of a key frame that is sharper
than the frames before it, of a flash, and of any change beside frames that a recorder repeated.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

REPEAT_LEVELS = 0.2
"""A frame that differs less than this from the one before repeats it: mean over the thumbnail, of 255. Recorders that
encode a repeated frame again change it by up to 0.12."""
NUM_NEIGHBOURS = 2
"""Frames that changed, on each side, which a cut is compared with: the detector's own window."""
LOOK_AHEAD_FRAMES = 8
"""The frames on the far side are waited for this long, where frames are repeated: four times each."""
LOOK_PX = 64
"""Pictures are compared at this width, blurred: coding errors and noise vanish, what is shown does not."""
SAME_CORRELATION = 0.95
"""Both sides show the same picture from here on. Real cuts of the tested clips: up to 0.45; most jump cuts in a scene:
0.75 to 0.95; key frames that pop and fast gestures: 0.96 to 1."""
SAME_LEVELS = 11.0
"""... and nearly as bright: key frames that pop change the blurred picture by up to 9 of 255, the first frame of a fade
or dissolve by 14 and more."""
SAME_LATER_CORRELATION = 0.9
"""... or brighter for good, but still the same picture some frames later: exposure, not a dissolve."""
NEAR_CORRELATION, NEAR_LEVELS = 0.85, 13.0
"""Among repeated frames, a change no larger than those of the frames that changed is a cut only if it exceeds these."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A frame with a picture."""

    number: int
    luma: np.ndarray
    """uint8 [h, w]."""
    change: float
    """Mean difference from the frame before, 0 to 255."""

    @property
    def is_repeat(self) -> bool:
        return self.change < REPEAT_LEVELS


class SecondLook:
    """Remembers the thumbnails of the latest frames, and tells cuts from what only looks like one."""

    def __init__(self, threshold: float) -> None:
        """threshold: a cut changes the picture by this factor more than its neighbours do."""
        self.threshold = threshold
        self._looks: deque[_Look] = deque(maxlen=3 * LOOK_AHEAD_FRAMES)

    def add(self, number: int, thumbnail: np.ndarray) -> None:
        """thumbnail: uint8 [h, w, 3] BGR. Numbers grow; frames without a picture are left out."""
        luma = cv2.cvtColor(thumbnail, cv2.COLOR_BGR2GRAY)
        change = cv2.norm(luma, self._looks[-1].luma, cv2.NORM_L1) / luma.size if self._looks else 0.0
        self._looks.append(_Look(number, luma, change))

    def has_seen_enough(self, number: int) -> bool:
        """Whether the far side of frame `number` is known well enough for `is_cut`."""
        after = [look for look in self._looks if look.number > number]
        return len(after) >= LOOK_AHEAD_FRAMES or len(_changed(after)) >= NUM_NEIGHBOURS

    def is_cut(self, number: int) -> bool:
        """Whether frame `number`, which the detector takes for the first of a shot, shows another picture."""
        looks = list(self._looks)
        at = next(index for index, look in enumerate(looks) if look.number == number)
        before, after = _changed(looks[:at])[-NUM_NEIGHBOURS:], _changed(looks[at + 1 :])[:NUM_NEIGHBOURS]
        near = _blurred(looks[at - 1].luma), _blurred(looks[at].luma)
        correlation = _correlation(*near)
        levels = float(np.abs(near[0] - near[1]).mean())
        if correlation >= SAME_CORRELATION:
            earlier = looks[max(0, looks.index(before[0]) - 1)] if before else looks[0]
            later = after[-1] if after else looks[-1]
            if levels < SAME_LEVELS:
                return False
            if _correlation(_blurred(earlier.luma), _blurred(later.luma)) >= SAME_LATER_CORRELATION:
                return False
        window = looks[max(0, at - NUM_NEIGHBOURS) : at] + looks[at + 1 : at + 1 + NUM_NEIGHBOURS]
        if any(look.is_repeat for look in window) and (correlation >= NEAR_CORRELATION or levels < NEAR_LEVELS):
            changes = [look.change for look in before + after]
            return not changes or looks[at].change >= self.threshold * float(np.mean(changes))
        return True


def _changed(looks: Sequence[_Look]) -> list[_Look]:
    return [look for look in looks if not look.is_repeat]


def _blurred(luma: np.ndarray) -> np.ndarray:
    """float32 [h, 64]."""
    height, width = luma.shape
    size = LOOK_PX, max(2, round(height * LOOK_PX / width))
    return cv2.GaussianBlur(cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 1.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """-1 to 1, whatever the brightness and contrast of the two; 0 where one of them is a plain surface."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))
