"""Frames with known faces, for tests of stages: a fake backend finds what a script says."""

from collections.abc import Iterator

import numpy as np

from lipforge.model.faces.boxes import iou
from lipforge.model.faces.face import Outlines
from lipforge.model.faces.lip_points import SYNC_LANDMARKS
from lipforge.model.faces.mediapipe import DetectedFace, FaceLandmarks, alignment_points, outlines
from lipforge.model.faces.picture import Area, Picture
from lipforge.pipeline.clip import Clip, Frame, Source, Unit, Video
from lipforge.pipeline.config import (
    AlignConfig,
    CutConfig,
    FacesConfig,
)
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish import accounts
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.faces import TrackFaces

HEIGHT, WIDTH = 240, 480

Box = tuple[float, float, float, float]
Script = dict[int, list[Box]]
"""Frame number -> the boxes of its faces. Frames that are not in it have none."""

LEFT_BOX: Box = (60.0, 60.0, 150.0, 180.0)
RIGHT_BOX: Box = (280.0, 50.0, 385.0, 190.0)


def _face_shape() -> np.ndarray:
    shape = np.random.default_rng(0).uniform(0, 1, (468, 2))
    shape[[70, 63, 105, 66, 107]] = (0.3, 0.2)
    shape[[300, 293, 334, 296, 336]] = (0.7, 0.2)
    shape[[168, 197, 5, 4, 129, 98, 2, 327, 358]] = (0.5, 0.5)
    shape[0], shape[1] = (0, 0), (1, 1)
    return shape


SHAPE = _face_shape()


def landmarks_in(box: Box) -> np.ndarray:
    """float32 [468, 3]: an upright face that fills the box."""
    x0, y0, x1, y1 = box
    flat = SHAPE * (x1 - x0, y1 - y0) + (x0, y0)
    return np.column_stack([flat, np.zeros(468)]).astype(np.float32)


class FakeFaces:
    """Reads the frame's number from its first pixel and looks up its faces in the script."""

    name = "fake"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.looks: list[int] = []

    def _boxes(self, picture: Picture) -> list[Box]:
        return self.script.get(number_of(picture), [])

    def detect(self, picture: Picture) -> list[DetectedFace]:
        self.looks.append(number_of(picture))
        return [DetectedFace(*box, 0.9, np.zeros((6, 2), np.float32)) for box in self._boxes(picture)]

    def landmarks(self, picture: Picture, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        boxes = self._boxes(picture)
        best = max(boxes, key=lambda box: iou(box, prior.box), default=None)
        if best is None or iou(best, prior.box) == 0:
            return None
        return FaceLandmarks(landmarks_in(best), 0.9)

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        return alignment_points(points)

    def sync_points(self, points: np.ndarray) -> np.ndarray:
        return points[:, SYNC_LANDMARKS]

    def outlines(self, points: np.ndarray) -> Outlines:
        return outlines(points)


GRADIENT = np.stack([*np.mgrid[:HEIGHT, :WIDTH] % 256, np.full((HEIGHT, WIDTH), 99)], axis=2).astype(np.uint8)


def numbered_frame(number: int) -> np.ndarray:
    """uint8 [240, 480, 3] with its number in the first pixel and a gradient elsewhere, which moves with the number."""
    rgb = np.roll(GRADIENT, 20 * number, axis=1)
    rgb[0, 0] = number >> 8, number & 255, 0
    return rgb


def number_of(picture: Picture) -> int:
    rgb = picture.part(Area(0, 0, 1, 1))
    return int(rgb[0, 0, 0]) << 8 | int(rgb[0, 0, 1])


def make_unit(num_frames: int, start_frame: int = 0) -> Unit:
    end = start_frame + num_frames
    info = VideoInfo(WIDTH, HEIGHT, 0, 25.0, end, 0.0, (0.0,), True, "h264", "aac")
    return Unit(Video(Source("/videos/a.mp4"), "ab" * 32, info), start_frame, end)


def make_frames(unit: Unit, undecoded: range = range(0), cuts: tuple[int, ...] = ()) -> Iterator[Frame]:
    for index in range(unit.start_frame, unit.end_frame):
        shot = sum(index >= cut for cut in cuts)
        yield Frame(index, None if index in undecoded else Picture.of(numbered_frame(index)), shot)


def everywhere(num_frames: int, *boxes: Box) -> Script:
    return {number: list(boxes) for number in range(num_frames)}


def track(script: Script, unit: Unit, config: FacesConfig | None = None, **how) -> list[Frame]:
    return list(TrackFaces(config or FacesConfig(), FakeFaces(script)).process(make_frames(unit, **how)))


def cut(
    script: Script, unit: Unit, faces: FacesConfig | None = None, crop: AlignConfig | None = None, **how
) -> list[Clip]:
    faces, backend = faces or FacesConfig(), FakeFaces(script)
    tracked = TrackFaces(faces, backend).process(make_frames(unit, **how))
    return list(CutRuns(CutConfig(), faces, crop or AlignConfig(), backend).process(unit, tracked))


def outcomes(clips: list[Clip]) -> list[tuple[int, int, str]]:
    """(first frame, end, reason or `kept`), by time."""
    return sorted((clip.start_frame, clip.end_frame, clip.reason.value if clip.reason else "kept") for clip in clips)


def check_every_frame_has_a_row(clips: list[Clip], unit: Unit) -> None:
    rows = [
        {
            "status": clip.status.value,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "track_index": clip.track_index,
        }
        for clip in clips
    ]
    accounts.account(rows, unit.start_frame, unit.end_frame)
    assert sum(row["accounted_frames"] for row in rows) == unit.num_frames
    assert len({clip.key for clip in clips}) == len(clips)
