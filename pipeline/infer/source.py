"""The video that gets new lips: opened, looked at, and with the faces that are to be drawn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lipforge.model.clock import FPS
from lipforge.model.weights.load import load
from lipforge.pipeline.clip import Frame, Unit, Video
from lipforge.pipeline.clip import Source as SourceEntry
from lipforge.pipeline.config import AlignConfig
from lipforge.pipeline.infer.analyse import Looked, Looker
from lipforge.pipeline.infer.choose import Choice, choose_faces
from lipforge.pipeline.infer.draw import Scene
from lipforge.pipeline.infer.drawable import Drawable, drawable_from_points, find_drawable
from lipforge.pipeline.infer.faces_picture import ShotPictures, save_faces_picture
from lipforge.pipeline.infer.pictures import SourceFrames
from lipforge.pipeline.infer.points_file import NO_FACE_HINT, read_face_points
from lipforge.pipeline.infer.protocols import Stopped
from lipforge.pipeline.infer.request import InferConfig, InferError
from lipforge.pipeline.infer.stretches import SyncStretches
from lipforge.pipeline.infer.timeline import Timeline, length_of_result
from lipforge.pipeline.infer.usable import UsableConfig
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.output.picture_format import PictureFormat, read_picture_format
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import VideoInfo, probe
from lipforge.pipeline.media.video import SourceFrame, decode_video
from lipforge.pipeline.profiles import PROFILES


@dataclass(frozen=True)
class Chosen:
    """Whose lips are made new, and where."""

    frames: SourceFrames
    drawable: Drawable
    pts: np.ndarray
    durations: np.ndarray
    """int64 [N], in the time base of the result; the first frame is at 0."""
    begins_s: float
    """The first frame's time on the clock of media/video.py."""
    time_base: Fraction
    notes: list[str]

    def timeline(self, audio_s: float, config: InferConfig) -> Timeline:
        ticks = int(self.pts[-1] + self.durations[-1])
        video_s = float(ticks * self.time_base)
        half_frame_s = float(np.median(self.durations) * self.time_base) / 2
        length_s = length_of_result(video_s, audio_s, config, half_frame_s)
        return Timeline(self.pts, self.durations, self.time_base, length_s, config.extend == "hold")


class Source:
    """A video that can be used."""

    def __init__(self, uri: str, info: VideoInfo, config: InferConfig) -> None:
        self.uri, self.info = uri, info
        self.format: PictureFormat = read_picture_format(uri, info)
        self.profile = PROFILES[config.face_models]
        self.models = load(config.face_models)
        self.backend = self.profile.faces(self.models)

    @property
    def length_s(self) -> float:
        return self.info.num_frames / FPS

    def choose(
        self, folder: Path, config: InferConfig, out: Path, on_second: Callable[[float], None], stopped: Stopped
    ) -> Chosen:
        """Look at the whole video, or at what an earlier run saw of it, and choose. Raises InferError without a face."""
        points = read_face_points(config.face_points) if config.face_points is not None else None
        looked = self._looker().look(folder, on_second, stopped)
        if not len(looked.times_s):
            raise InferError(f"{self.uri}: no frame can be decoded")
        notes = list(self.format.notes)
        if points is not None:
            drawable = drawable_from_points(looked.times_s, looked.shots, points)
        else:
            picture = faces_picture_path(out)
            choice = choose_faces(
                config.face, looked.tracks, looked.scores, self.profile.min_sync_confidence, picture
            )
            notes += choice.notes
            usable = UsableConfig(max_yaw_deg=config.max_yaw_deg)
            drawable = find_drawable(looked.times_s, looked.shots, looked.tracks, choice, usable)
        if not drawable.stretches:
            seen = "no face was found" if not looked.tracks else "no face can be drawn: " + _why(drawable)
            raise InferError(f"{self.uri}: {seen}; {NO_FACE_HINT}")
        pts, durations = self._ticks(looked)
        return Chosen(
            frames=SourceFrames(looked.times_s),
            drawable=drawable,
            pts=pts,
            durations=durations,
            begins_s=float(looked.times_s[0]),
            time_base=self.format.time_base,
            notes=notes,
        )

    def number_faces(
        self, folder: Path, config: InferConfig, picture: Path, on_second: Callable[[float], None], stopped: Stopped
    ) -> list[str]:
        """Draw the numbered faces; returns a line about each. Raises InferError without a face."""
        looked = self._looker().look(folder, on_second, stopped)
        if not looked.tracks:
            raise InferError(f"{self.uri}: no face was found; {NO_FACE_HINT}")
        choice = choose_faces("speaker", looked.tracks, looked.scores, self.profile.min_sync_confidence, picture)
        self._save_picture(picture, looked, choice)
        lines = []
        for track in looked.tracks:
            start_s, end_s = (float(looked.times_s[track.rows["frame"][at]]) for at in (0, -1))
            chosen = ", the speaker" if track.number in choice.tracks.get(track.shot_index, []) else ""
            lines.append(f"track:{track.number}  {start_s:.1f} to {end_s:.1f} s, {track.height_px:.0f} px high{chosen}")
        return [*lines, *choice.notes]

    def scene(self, chosen: Chosen, timeline: Timeline) -> Scene:
        return Scene(
            uri=self.uri,
            info=self.info,
            frames=chosen.frames,
            timeline=timeline,
            stretches=chosen.drawable.stretches,
            smoothing_frames=AlignConfig().smoothing_frames,
            to_output=self.format.convert,
            shape=self.format.shape,
        )

    def _looker(self) -> Looker:
        return Looker(self.uri, self.info, self.backend, self.format.convert, self.format.shape, self._open_sync)

    def _open_sync(self, first: int, end: int) -> SyncStretches | None:
        if not self.info.has_audio:
            return None
        video = Video(SourceEntry(self.uri), "", self.info)
        return SyncStretches(
            Unit(video, first, end),
            self.backend,
            self.profile.sync(self.models),
            lambda start, stop: read_audio(self.uri, self.info, start, stop).samples,
        )

    def _ticks(self, looked: Looked) -> tuple[np.ndarray, np.ndarray]:
        """(pts, durations) of the frames in the result: each stands until the next."""
        pts = np.rint((looked.times_s - looked.times_s[0]) / float(self.format.time_base)).astype(np.int64)
        steps = np.diff(pts)
        usual = int(np.median(steps)) if len(steps) else round(1 / FPS / float(self.format.time_base))
        last = self.format.last_duration or usual
        return pts, np.append(steps, max(1, last))

    def _save_picture(self, path: Path, looked: Looked, choice: Choice) -> None:
        """One frame of each shot that has faces: the one that shows most of them."""
        pictures = ShotPictures()
        to_rgb = ToRgb(self.info)
        frames = SourceFrames(looked.times_s)
        ...


def open_source(uri: str, config: InferConfig, limit_s: float | None = None) -> Source:
    """Raises MediaError, NotThereError, StorageError; ModelFileError for the face models."""
    info = probe(uri)
    if limit_s is not None:
        info = replace(info, num_frames=min(info.num_frames, max(1, round(limit_s * FPS))))
    return Source(uri, info, config)


def faces_picture_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.faces.jpg")
