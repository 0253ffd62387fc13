"""A second look at both sides of what the shot detector takes for a cut: is it another picture, or the same one?

The detector asks whether a frame changes more than its neighbours. That is also true of a key frame that is sharper
than the frames before it, of a flash, and of any change beside frames that a recorder repeated.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

REPEAT_LEVELS, REPEAT_SHARE = 0.2, 0.05
"""A frame that differs less than this from the one before repeats it: mean over the thumbnail, of 255, or a share
of the change at the cut. Recorders that encode a repeated frame again change it by up to 0.5."""
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
GESTURE_FACTOR = 2.75
"""Fast gestures change a picture by up to 2.65 times as much as the frames around them, at 15 frames per second. Jump
cuts that the detector finds do so by 2.4 times and more, nearly all by more than 3."""
GESTURE_CORRELATION, GESTURE_LEVELS = 0.75, 16.0
"""... and what they leave: at least this correlation, and at most this change."""
REPEATED_CORRELATION, REPEATED_LEVELS = 0.85, 13.0
"""The same among repeated frames, where one of the two is enough: there, the detector asks for no factor at all."""
REPEATED_FACTOR, OTHER_CORRELATION = 1.25, 0.5
"""... and a change below this factor is a cut there only at a correlation below this: another picture altogether."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A frame with a picture."""

    number: int
    luma: np.ndarray
    """uint8 [h, w]."""
    change: float
    """Mean difference from the frame before, 0 to 255."""

    def is_repeat(self, cut: "_Look") -> bool:
        """Whether it repeats the frame before it, as compared with what changes at a cut."""
        return self.change < max(REPEAT_LEVELS, REPEAT_SHARE * cut.change)


class SecondLook:
    """Remembers the thumbnails of the latest frames, and tells cuts from what only looks like one."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=3 * LOOK_AHEAD_FRAMES)

    def add(self, number: int, thumbnail: np.ndarray) -> None:
        """thumbnail: uint8 [h, w, 3] BGR. Numbers grow; frames without a picture are left out."""
        luma = cv2.cvtColor(thumbnail, cv2.COLOR_BGR2GRAY)
        change = cv2.norm(luma, self._looks[-1].luma, cv2.NORM_L1) / luma.size if self._looks else 0.0
        self._looks.append(_Look(number, luma, change))

    def has_seen_enough(self, number: int) -> bool:
        """Whether the far side of frame `number` is known well enough for `is_cut`."""
        _, cut, after = self._split(number)
        return len(after) >= LOOK_AHEAD_FRAMES or len(_changed(after, cut)) >= NUM_NEIGHBOURS

    def _split(self, number: int) -> tuple[list[_Look], _Look, list[_Look]]:
        looks = list(self._looks)
        at = next(index for index, look in enumerate(looks) if look.number == number)
        return looks[:at], looks[at], looks[at + 1 :]

    def is_cut(self, number: int) -> bool:
        """Whether frame `number`, which the detector takes for the first of a shot, shows another picture."""
        before, cut, after = self._split(number)
        changed_before = _changed(before, cut)[-NUM_NEIGHBOURS:]
        changed_after = _changed(after, cut)[:NUM_NEIGHBOURS]
        near = _blurred(before[-1].luma), _blurred(cut.luma)
        correlation = _correlation(*near)
        levels = float(np.abs(near[0] - near[1]).mean())
        if correlation >= SAME_CORRELATION:
            if levels < SAME_LEVELS:
                return False
            earlier = before[max(0, before.index(changed_before[0]) - 1)] if changed_before else before[0]
            later = changed_after[-1] if changed_after else [cut, *after][-1]
            if _correlation(_blurred(earlier.luma), _blurred(later.luma)) >= SAME_LATER_CORRELATION:
                return False
        changes = [look.change for look in changed_before + changed_after]
        factor = cut.change / float(np.mean(changes)) if changes else np.inf
        if any(look.is_repeat(cut) for look in before[-NUM_NEIGHBOURS:] + after[:NUM_NEIGHBOURS]):
            may_be_gesture = correlation >= REPEATED_CORRELATION or levels < REPEATED_LEVELS
            if factor < REPEATED_FACTOR and correlation >= OTHER_CORRELATION:
                return False
        else:
            may_be_gesture = correlation >= GESTURE_CORRELATION and levels < GESTURE_LEVELS
        return not (may_be_gesture and factor < GESTURE_FACTOR)


def _changed(looks: Sequence[_Look], cut: _Look) -> list[_Look]:
    return [look for look in looks if not look.is_repeat(cut)]


def _blurred(luma: np.ndarray) -> np.ndarray:
    """float32 [h, 64]."""
    height, width = luma.shape
    size = LOOK_PX, max(2, round(height * LOOK_PX / width))
    return cv2.GaussianBlur(cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 1.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """-1 to 1, whatever the brightness and contrast of the two; 0 where one of them is a plain surface."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))
