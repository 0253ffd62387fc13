"""The mouth at a moment between two drawn ones: the model draws 25 a second, videos have more frames, or others."""

import cv2
import numpy as np

_FLOW_PX = 128
"""Motion is found at this size; mouths move by more than its pixels, not by less."""


class Carrier:
    """Finds motion between two faces and shows what is on the way. Keeps the last motion. Not thread-safe."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last: tuple[int, int] | None = None
        self._motion: np.ndarray | None = None

    def between(self, before: np.ndarray, after: np.ndarray, share: float, pair: tuple[int, int]) -> np.ndarray:
        """float32 [R, R, 3]: the face at `share` (0..1) of the way from `before` to `after`, both aligned [R, R, 3].

        pair: names the two faces, so that their motion is found once. Both are moved along it and mixed: lips that move
        stay sharp, where a plain mix would show them twice.
        """
        if pair != self._last or self._motion is None:
            self._motion, self._last = self._find(before, after), pair
        motion = self._motion
        rows, columns = np.mgrid[: len(before), : len(before)].astype(np.float32)
        moved = []
        for face, by in ((before, -share), (after, 1 - share)):
            moved.append(
                cv2.remap(
                    face,
                    columns + np.float32(by) * motion[..., 0],
                    rows + np.float32(by) * motion[..., 1],
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )
        return np.float32(1 - share) * moved[0] + np.float32(share) * moved[1]

    def _find(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """float32 [R, R, 2]: how far each point moves, in pixels of the face; the mean of both directions."""
        small = [
            cv2.cvtColor(
                cv2.resize(face, (_FLOW_PX, _FLOW_PX), interpolation=cv2.INTER_AREA).round().astype(np.uint8),
                cv2.COLOR_RGB2GRAY,
            )
            for face in (before, after)
        ]
        ahead: np.ndarray = self._flow.calc(small[0], small[1], None)  # type: ignore[call-overload]
        back: np.ndarray = self._flow.calc(small[1], small[0], None)  # type: ignore[call-overload]
        scale = len(before) / _FLOW_PX
        return cv2.resize((ahead - back) * np.float32(scale / 2), before.shape[1::-1], interpolation=cv2.INTER_LINEAR)
