"""Videos become aligned clips: one face of each, at 25 fps, with its sound.

A video is decoded twice: once to find the face, once to cut it out, so that memory holds crops only. Whatever shows the
same picture with another mouth is cut out where its reference's face is, so that pictures compare frame by frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lipforge.model.clock import FPS, SYNC_MARGIN_FRAMES
from lipforge.model.faces.alignment import align, hidden_ratio, steady, to_square
from lipforge.model.faces.face import FaceBackend, FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.clip import Frame, Source, Unit, Video
from lipforge.pipeline.config import AlignConfig, FacesConfig, ShotsConfig
from lipforge.pipeline.evaluate.clip import Unmeasurable
from lipforge.pipeline.evaluate.judge import CROP_PX, MAX_MISSING
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.container import open_media, read_packets, timestamp_s, video_stream
from lipforge.pipeline.media.probe import VideoInfo, probe
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.stages.align import fill_gaps
from lipforge.pipeline.stages.faces import TrackFaces
from lipforge.pipeline.stages.resample import Resample
from lipforge.pipeline.stages.shots import SplitShots

_SAME_SHAPE = 0.01
"""Relative difference of proportions up to which two pictures are one."""
_SYNCNET_PX, _GREY, _MEDIAN_FRAMES = 224, 110, 13


@dataclass(frozen=True)
class Place:
    """Where a video's face is, for the time it is judged."""

    first_frame: int
    """At 25 fps."""
    matrices: np.ndarray
    """float64 [T, 2, 3]: from pixels of the first picture's size to the aligned crop of 256 px."""
    boxes: np.ndarray
    """float64 [T, 4]: x0, y0, x1, y1 from forehead to chin, in the same pixels."""
    width_px: int
    height_px: int

    @property
    def num_frames(self) -> int:
        return len(self.matrices)


class OpenVideo:
    """A video file that can be decoded. Raises MediaError, NotThereError, StorageError."""

    def __init__(self, uri: str, seconds: float) -> None:
        """seconds: what comes later is not judged."""
        self.uri, self.info = uri, probe(uri)
        self.end_frame = min(self.info.num_frames, max(1, round(seconds * FPS)))

    def frames(
        self, first: int = 0, end: int | None = None, *, shots: bool = False
    ) -> Iterator[tuple[int, Picture | None, int]]:
        """(number at 25 fps, picture or None where it cannot be decoded, shot), all of one size.

        shots: look for cuts; without, all are one.
        """
        unit = _unit(self.uri, self.info, first, self.end_frame if end is None else end)
        reader = Resample()
        size: tuple[int, int] | None = None
        decoded = reader.decode(unit, DecodeCount())
        for frame in reader.to_grid(unit, SplitShots(ShotsConfig()).process(decoded) if shots else decoded):
            picture = frame.picture
            if picture is not None:
                size = size or picture.size_px
                if picture.size_px != size:
                    picture = Picture.of(cv2.resize(picture.whole(), size, interpolation=cv2.INTER_AREA))
            yield frame.index, picture, frame.shot_index

    def find_face(self, backend: FaceBackend) -> Place:
        """The face that is seen longest without a cut. Raises Unmeasurable where there is none."""
        seen: dict[int, dict[int, FaceLandmarks]] = {}
        size: tuple[int, int] | None = None
        tracker = TrackFaces(FacesConfig(), backend)
        for frame in tracker.process(Frame(*found) for found in self.frames(shots=True)):
            if frame.picture is not None:
                width, height = size = size or frame.picture.size_px
                for track, face in frame.faces.items():
                    if hidden_ratio(face.points, width, height) <= MAX_MISSING:
                        seen.setdefault(track, {})[frame.index] = face
        if not seen or size is None:
            raise Unmeasurable("no face" if size is not None else "no picture can be decoded")
        faces = max(seen.values(), key=lambda those: (len(those), sum(one.height_px for one in those.values())))
        first, last = min(faces), max(faces)
        found = [faces.get(index) for index in range(first, last + 1)]
        landmarks = fill_gaps([None if face is None else face.points for face in found])
        points = steady(backend.alignment_points(landmarks), AlignConfig().smoothing_frames)
        boxes = np.concatenate([landmarks[..., :2].min(axis=1), landmarks[..., :2].max(axis=1)], axis=1)
        return Place(first, to_square(align(points, CROP_PX), CROP_PX), boxes.astype(np.float64), *size)

    def fits(self, place: Place) -> bool:
        """Whether the picture has the proportions of the one that a place was found in."""
        shape = self.info.width_px / self.info.height_px
        return abs(shape * place.height_px / place.width_px - 1) <= _SAME_SHAPE

    def crops(self, place: Place) -> np.ndarray:
        """uint8 [T, 256, 256, 3]: the frames of a place, up to the end of this video.

        Raises Unmeasurable where more than a fifth of them cannot be decoded.
        """
        crops: list[np.ndarray] = []
        lost = 0
        end = min(self.end_frame, place.first_frame + place.num_frames)
        for index, picture, _ in self.frames(min(place.first_frame, end), end):
            if picture is None:
                lost += 1
                crops.append(crops[-1] if crops else np.zeros((CROP_PX, CROP_PX, 3), np.uint8))
                continue
            matrix = place.matrices[index - place.first_frame].copy()
            matrix[:, :2] *= place.width_px / picture.width_px
            crops.append(warp_whole(picture.whole(), matrix))
        if not crops:
            raise Unmeasurable("it ends before the face is seen")
        if lost > MAX_MISSING * len(crops):
            raise Unmeasurable("too many pictures cannot be decoded")
        return np.stack(crops)

    def face_crops(self, place: Place) -> np.ndarray:
        """uint8 [T, 224, 224, 3] RGB: the face as SyncNet v2's own code cuts it out, for a place in this video.

        Of each box, half of the longer side s and the centre, each the median of 13 frames; from s above the centre to
        1.8 s below, and 1.4 s to each side, grey (110) beyond the picture. Its boxes are S3FD's; ours are the extent of
        FaceMesh's points, from forehead to chin, which are about as large.
        """
        sizes = (place.boxes[:, 2:] - place.boxes[:, :2]).max(axis=1) / 2
        centres = (place.boxes[:, 2:] + place.boxes[:, :2]) / 2
        tracks = np.column_stack([sizes, centres])
        padded = np.pad(tracks, ((_MEDIAN_FRAMES // 2,) * 2, (0, 0)), mode="edge")
        tracks = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_FRAMES, axis=0), axis=-1)
        crops: list[np.ndarray] = []
        end = min(self.end_frame, place.first_frame + place.num_frames)
        for index, picture, _ in self.frames(min(place.first_frame, end), end):
            if picture is None:
                crops.append(crops[-1] if crops else np.full((_SYNCNET_PX, _SYNCNET_PX, 3), _GREY, np.uint8))
                continue
            size, x, y = tracks[index - place.first_frame] * (picture.width_px / place.width_px)
            scale = _SYNCNET_PX / (2.8 * size)
            matrix = np.array([[scale, 0, (1.4 * size - x) * scale], [0, scale, (size - y) * scale]])
            matrix[:, 2] += (scale - 1) / 2
            grey = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (_GREY,) * 3}
            size_px = (_SYNCNET_PX, _SYNCNET_PX)
            crops.append(cv2.warpAffine(picture.whole(), matrix, size_px, flags=cv2.INTER_LINEAR, **grey))
        return np.stack(crops)

    def sound(self, first: int, num_frames: int) -> np.ndarray:
        """float32 [(num_frames + 30) * 640]"""
        return read_audio(
            self.uri, self.info, first - SYNC_MARGIN_FRAMES, first + num_frames + SYNC_MARGIN_FRAMES
        ).samples

    def length(self) -> tuple[int, float]:
        """(pictures in the file, seconds from the first one's beginning to the last one's end)"""
        times_s: list[float] = []
        with open_media(self.uri) as container:
            stream: Any = video_stream(container)
            for packet in read_packets(container, stream):
                time_s = None if packet is None or packet.is_discard else timestamp_s(packet, stream.time_base)
                if packet is None:
                    break
                if time_s is not None:
                    times_s.append(time_s)
        times_s.sort()
        step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / FPS
        return len(times_s), times_s[-1] - times_s[0] + step_s if times_s else 0.0


def warp_whole(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """uint8 [256, 256, 3]. Faces much larger than the crop are averaged down first, as when a dataset is prepared."""
    step = max(1, int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    if step > 1:
        height, width = rgb.shape[0] // step, rgb.shape[1] // step
        rgb = cv2.resize(rgb[: height * step, : width * step], (width, height), interpolation=cv2.INTER_AREA)
        offset = np.full(2, (step - 1) / 2)
        matrix = np.column_stack([matrix[:, :2] * step, matrix[:, :2] @ offset + matrix[:, 2]])
    return cv2.warpAffine(rgb, matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _unit(uri: str, info: VideoInfo, first: int, end: int) -> Unit:
    return Unit(Video(Source(uri), "", info), first, end)
