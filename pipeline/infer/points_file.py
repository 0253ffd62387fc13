"""Points of a face from outside, for drawn faces that no detector finds: `--face-points FILE`."""

from pathlib import Path

import numpy as np


class FacePoints:
    """The face of a points file at any time."""

    def at(self, time_s: float) -> np.ndarray | None:
        """float32 [3, 2]: the alignment points, in pixels of the frame as it is shown; None: no face there."""
        raise NotImplementedError


def read_face_points(path: Path) -> FacePoints:
    """Raises ValueError in one sentence with the line's number."""
    raise NotImplementedError


NO_FACE_HINT = "for a drawn face, say where it is with --face-points FILE (docs/inference_faces.md)"
