"""Track every face through the frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.faces.boxes import SAME_FACE_IOU, area, iou, overlap_of_smaller
from lipforge.model.faces.face import DetectedFace, FaceBackend, FaceLandmarks
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.config import FacesConfig

OVERLAPPING = 0.5
"""Two boxes are one face when their shared area over the smaller box exceeds this."""


@dataclass
class _Track:
    index: int
    last: FaceLandmarks
    num_missed: int = 0


class TrackFaces:
    """Adds to each frame the landmarks of its faces, by track.

    Detection runs when due or when a face was lost; in between, landmarks follow the face. A track ends with its shot,
    or when its face is missing for more than `max_gap_frames`. A face that returns earlier, where it was, continues its
    track.
    """

    name = Stage.TRACK_FACES

    def __init__(self, config: FacesConfig, backend: FaceBackend) -> None:
        self.config = config
        self.backend = backend

    def process(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        tracks: list[_Track] = []
        next_index = 0
        since_detection = 0
        previous: Frame | None = None
        for frame in frames:
            new_shot = previous is None or previous.shot_index != frame.shot_index or previous.picture is None
            if frame.picture is None:
                tracks = []
            elif not new_shot and previous is not None and frame.picture is previous.picture:
                frame.faces = previous.faces  # the same source frame, repeated
            else:
                if new_shot:
                    tracks = []
                elif previous is not None and previous.scale != frame.scale:
                    for track in tracks:
                        track.last = track.last.scaled(frame.scale / previous.scale)
                self._follow(frame, tracks)
                since_detection += 1
                every = self.config.detect_every_frames if tracks else self.config.search_every_frames
                if new_shot or any(track.num_missed for track in tracks) or since_detection >= every:
                    since_detection = 0
                    next_index = self._detect(frame, tracks, next_index)
                tracks = [track for track in tracks if track.num_missed <= self.config.max_gap_frames]
            previous = frame
            yield frame

    def _follow(self, frame: Frame, tracks: list[_Track]) -> None:
        """Find each track's landmarks in this frame, or count the frame as missed."""
        assert frame.picture is not None
        for track in tracks:
            found = self.backend.landmarks(frame.picture, track.last) if track.num_missed == 0 else None
            taken = found is not None and _is_tracked(found, frame)
            if found is None or taken or iou(found.box, track.last.box) < SAME_FACE_IOU:
                track.num_missed += 1
            else:
                track.last = found
                frame.faces[track.index] = found

    def _detect(self, frame: Frame, tracks: list[_Track], next_index: int) -> int:
        """Detect faces, to resume lost tracks and start new ones. Returns the next free track index."""
        assert frame.picture is not None
        detected = sorted(self.backend.detect(frame.picture), key=lambda face: area(face.box), reverse=True)
        for face in detected:
            if _is_tracked(face, frame):
                continue
            found = self.backend.landmarks(frame.picture, face)
            if found is None or _is_tracked(found, frame):
                continue
            track = next((t for t in tracks if t.num_missed and iou(found.box, t.last.box) >= SAME_FACE_IOU), None)
            if track is None:
                if len(tracks) >= self.config.max_tracks:
                    continue
                track = _Track(next_index, found)
                tracks.append(track)
                next_index += 1
            track.last, track.num_missed = found, 0
            frame.faces[track.index] = found
        return next_index


def _is_tracked(face: DetectedFace | FaceLandmarks, frame: Frame) -> bool:
    return any(overlap_of_smaller(face.box, other.box) > OVERLAPPING for other in frame.faces.values())
