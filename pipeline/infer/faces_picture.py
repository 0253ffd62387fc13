"""One picture that shows every face with its number, so that a person can say which one is meant."""

from collections.abc import Sequence
from pathlib import Path

from lipforge.pipeline.clip import Frame
from lipforge.pipeline.infer.choose import Choice
from lipforge.pipeline.infer.usable import TrackMeasures


class ShotPictures:
    """Keeps one small frame of each shot, the one that shows most of the faces, while the frames stream by."""

    def add(self, frame: Frame, time_s: float) -> None:
        raise NotImplementedError


def save_faces_picture(path: Path, shots: ShotPictures, tracks: Sequence[TrackMeasures], choice: Choice | None) -> None:
    """A JPEG. choice: the faces that get new lips are highlighted."""
    raise NotImplementedError
