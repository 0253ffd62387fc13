"""Tell a covered mouth (hand, microphone, caption) from the person's own, by how the face looks in the rest of its track."""

import numpy as np

PATCH_PX = 24


def mouth_patch(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """uint8 [24, 24, 3]: the aligned face, small. frame: uint8 [H, W, 3] RGB; points: its alignment points [3, 2]."""
    raise NotImplementedError


class MouthWatch:
    """Scores the patches of one track, in blocks, so that memory does not grow: `add` each, then `finish`."""

    def add(self, patch: np.ndarray) -> np.ndarray:
        """float32 [0 or more]: scores of the next frames, in order, as soon as they are known."""
        raise NotImplementedError

    def finish(self) -> np.ndarray:
        """float32: scores of the rest."""
        raise NotImplementedError
