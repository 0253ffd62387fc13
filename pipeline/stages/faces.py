"""Follow every face in the picture."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.faces.mediapipe import DetectedFace, FaceBackend, FaceLandmarks
from lipforge.pipeline.clip import Box, Frame
from lipforge.pipeline.config import FacesConfig
from lipforge.pipeline.sources.plan import SAME_FACE, joint_share

OVERLAPPING = 0.5
"""Shared area over the smaller box: above it two boxes are one face."""


@dataclass
class _Track:
    index: int
    last: FaceLandmarks
    num_missed: int = 0


class TrackFaces:
    """Gives each frame the landmarks of its faces, by track.

    A face is found by detection, when a look is due or one was lost, and followed by its landmarks in between. A track ends with its
    shot, or when its face is missing for more than `max_gap_frames`; within that, a face that comes back where it was is the
    same track.
    """

    name = Stage.TRACK_FACES

    def __init__(self, config: FacesConfig, backend: FaceBackend) -> None:
        self.config = config
        self.backend = backend

    def process(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        tracks: list[_Track] = []
        next_index = 0
        since_look = 0
        previous: Frame | None = None
        for frame in frames:
            new_shot = previous is None or previous.shot_index != frame.shot_index or previous.rgb is None
            if frame.rgb is None:
                tracks = []
            elif not new_shot and previous is not None and frame.rgb is previous.rgb:
                frame.faces = previous.faces  # the same picture shown once more
            else:
                if new_shot:
                    tracks = []
                self._follow(frame, tracks)
                since_look += 1
                every = self.config.detect_every_frames if tracks else self.config.search_every_frames
                if new_shot or any(track.num_missed for track in tracks) or since_look >= every:
                    since_look = 0
                    next_index = self._look(frame, tracks, next_index)
                tracks = [track for track in tracks if track.num_missed <= self.config.max_gap_frames]
            previous = frame
            yield frame

    def _follow(self, frame: Frame, tracks: list[_Track]) -> None:
        """Place each track's landmarks in this frame, or count the frame as missed."""
        assert frame.rgb is not None
        for track in tracks:
            found = self.backend.landmarks(frame.rgb, track.last) if track.num_missed == 0 else None
            taken = found is not None and any(
                _shared(found.box, other.box) > OVERLAPPING for other in frame.faces.values()
            )
            if found is None or taken or joint_share(found.box, track.last.box) < SAME_FACE:
                track.num_missed += 1
            else:
                track.last = found
                frame.faces[track.index] = found

    def _look(self, frame: Frame, tracks: list[_Track], next_index: int) -> int:
        """Detect: take up lost tracks again, and begin new ones for new faces. Returns the next free track index."""
        assert frame.rgb is not None
        detected = sorted(self.backend.detect(frame.rgb), key=_area, reverse=True)
        for face in detected:
            if any(_shared(face.box, other.box) > OVERLAPPING for other in frame.faces.values()):
                continue
            found = self.backend.landmarks(frame.rgb, face)
            if found is None or any(_shared(found.box, other.box) > OVERLAPPING for other in frame.faces.values()):
                continue
            track = next((t for t in tracks if t.num_missed and joint_share(found.box, t.last.box) >= SAME_FACE), None)
            if track is None:
                if len(tracks) >= self.config.max_tracks:
                    continue
                track = _Track(next_index, found)
                tracks.append(track)
                next_index += 1
            track.last, track.num_missed = found, 0
            frame.faces[track.index] = found
        return next_index


def _area(face: DetectedFace) -> float:
    return (face.x1 - face.x0) * (face.y1 - face.y0)


def _overlap_area(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _size(box: Box) -> float:
    return max((box[2] - box[0]) * (box[3] - box[1]), 1e-6)


def _shared(a: Box, b: Box) -> float:
    """Shared area over the smaller area, 0..1."""
    return _overlap_area(a, b) / min(_size(a), _size(b))
