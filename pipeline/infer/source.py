"""The video that gets new lips: opened, looked at, and with the faces that are to be drawn."""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.model.clock import FPS
from lipforge.model.faces.covered import CoveredMouths
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.weights.load import load, load_file
from lipforge.pipeline.clip import Frame, Unit, Video
from lipforge.pipeline.clip import Source as SourceEntry
from lipforge.pipeline.config import AlignConfig
from lipforge.pipeline.infer.analyse import Looked, Looker
from lipforge.pipeline.infer.choose import Choice, choose_faces
from lipforge.pipeline.infer.draw import Scene
from lipforge.pipeline.infer.drawable import Drawable, find_drawable
from lipforge.pipeline.infer.faces_picture import ShotPictures, save_faces_picture
from lipforge.pipeline.infer.pictures import SourceFrames
from lipforge.pipeline.infer.points_file import NO_FACE_HINT, read_face_points
from lipforge.pipeline.infer.protocols import Stopped
from lipforge.pipeline.infer.request import PASSED_WORDS, InferConfig, InferError, PassReason
from lipforge.pipeline.infer.stretches import SyncStretches
from lipforge.pipeline.infer.timeline import Timeline, length_of_result
from lipforge.pipeline.infer.usable import TrackMeasures, UsableConfig
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.geometry import PictureShape, picture_shape
from lipforge.pipeline.media.output.picture_format import PictureFormat, read_picture_format
from lipforge.pipeline.media.output.to_format import ToFormat
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import VideoInfo, probe
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

    def beginning(self, limit_s: float) -> "Chosen":
        """The first seconds alone: one frame at least."""
        count = max(1, int(np.searchsorted(self.pts * float(self.time_base), limit_s - 1e-6)))
        stretches = [stretch.before(count) for stretch in self.drawable.stretches if stretch.first < count]
        return replace(
            self,
            frames=SourceFrames(self.frames.times_s[:count]),
            drawable=Drawable(stretches, self.drawable.reasons[:count]),
            pts=self.pts[:count],
            durations=self.durations[:count],
        )

    def length_notes(self, audio_s: float, timeline: Timeline, config: InferConfig) -> list[str]:
        """How the lengths of video and sound were brought together."""
        video_s = float(int(self.pts[-1] + self.durations[-1]) * self.time_base)
        frame_s = float(np.median(self.durations) * self.time_base)
        lengths = f"The sound is {audio_s:.1f} s long, the video {video_s:.1f} s"
        if audio_s > video_s + frame_s:
            what = {
                "loop": "the video plays forward and back",
                "hold": "the last frame is held",
                "trim": "the sound is cut",
            }[config.extend]
        elif audio_s < video_s - frame_s:
            what = {"silence": "the rest is silent", "stop": "the video ends with the sound"}[config.audio_end]
        else:
            return []
        return [f"{lengths}: {what}."]

    def timeline(self, audio_s: float, config: InferConfig) -> Timeline:
        ticks = int(self.pts[-1] + self.durations[-1])
        video_s = float(ticks * self.time_base)
        half_frame_s = float(np.median(self.durations) * self.time_base) / 2
        length_s = length_of_result(video_s, audio_s, config, half_frame_s)
        return Timeline(self.pts, self.durations, self.time_base, length_s, config.extend == "hold")


class Source:
    """A video that can be used."""

    def __init__(self, uri: str, info: VideoInfo, out: str, config: InferConfig, end_s: float) -> None:
        self.uri, self.info, self.end_s = uri, info, end_s
        self.format = read_picture_format(uri, info, out, lossless=config.lossless)
        self.shape = shape_of(self.format)
        self.to_format = ToFormat(self.format)
        self.profile = PROFILES[config.face_models]
        self.models = load(config.face_models)
        self.backend = self.profile.faces(self.models)
        self.covered = CoveredMouths(load_file("mouth_cover.safetensors"))

    @property
    def length_s(self) -> float:
        return self.info.num_frames / FPS

    def choose(
        self, folder: Path, config: InferConfig, out: Path, on_second: Callable[[float], None], stopped: Stopped
    ) -> Chosen:
        """Look at the video, or at what an earlier run saw of it, and choose. Raises InferError without a face."""
        points = read_face_points(config.face_points) if config.face_points is not None else None
        looked = self._looker().look(folder, on_second, stopped)
        if not len(looked.times_s):
            raise InferError(f"{self.uri}: no frame can be decoded")
        notes = list(self.format.notes)
        if points is not None and config.face_points is not None:
            frames = zip(range(len(looked.times_s)), looked.times_s.tolist(), looked.shots.tolist(), strict=True)
            tracks = points.tracks(frames, (self.shape.width_px, self.shape.height_px), config.face_points)
            choice = choose_faces("all", tracks, {}, 0.0)
        else:
            tracks = looked.tracks
            least = self.profile.min_sync_confidence
            picture = faces_picture_path(out)
            try:
                choice = choose_faces(config.face, tracks, looked.scores, least, picture)
            except ValueError:
                if tracks and config.face.startswith("track:"):  # the message names it
                    self._save_picture(picture, looked, None)
                raise
            notes += choice.notes
        usable = UsableConfig(max_yaw_deg=config.max_yaw_deg)
        drawable = find_drawable(looked.times_s, looked.shots, tracks, choice, usable)
        if not drawable.stretches:
            raise InferError(f"{self.uri}: {_why_none(drawable) if tracks else NO_FACE_HINT}")
        notes += _lost_notes(looked)
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
        self, folder: Path, picture: Path, on_second: Callable[[float], None], stopped: Stopped
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
            to_output=self.to_format.convert,
            shape=self.shape,
        )

    def _looker(self) -> Looker:
        convert = self.to_format.convert
        return Looker(self.uri, self.info, self.backend, self.covered, convert, self.shape, self._open_sync, self.end_s)

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
        return pts, np.append(steps, max(1, usual))

    def _save_picture(self, path: Path, looked: Looked, choice: Choice | None) -> None:
        """From one frame for each face: the one of its track in which most faces are seen."""
        pictures = ShotPictures()
        frames, to_rgb = SourceFrames(looked.times_s), ToRgb(self.info)
        for number in sorted({_best_frame(track, looked.tracks) for track in looked.tracks}):
            _, decoded = next(frames.decode(self.uri, self.info, number, number + 1))
            assert decoded.image is not None
            shown = replace(decoded, image=self.to_format.convert(decoded.image), shape=self.shape)
            here = Frame(number, to_rgb.convert(shown), int(looked.shots[number]))
            for track in looked.tracks:
                row = _row_of(track, number)
                if row is not None:
                    x0, y0, x1, y1 = map(float, row["box"])
                    here.faces[track.number - 1] = FaceLandmarks(row["points"], float(row["score"]), (x0, y0, x1, y1))
            pictures.add(here, decoded.time_s)
        save_faces_picture(path, pictures, looked.tracks, choice)


def _row_of(track: TrackMeasures, frame: int) -> np.ndarray | None:
    at = int(np.searchsorted(track.rows["frame"], frame))
    return track.rows[at] if at < len(track.rows) and track.rows["frame"][at] == frame else None


def _best_frame(track: TrackMeasures, tracks: list[TrackMeasures]) -> int:
    middle = track.rows["frame"][len(track.rows) // 2]
    near = track.rows["frame"][:: max(1, len(track.rows) // 20)].tolist()
    counts = {frame: sum(_row_of(other, frame) is not None for other in tracks) for frame in near}
    return max(counts, key=lambda frame: (counts[frame], -abs(frame - int(middle))))


def _why_none(drawable: Drawable) -> str:
    counts = Counter(reason for reason in drawable.reasons if reason is not PassReason.NO_FACE)
    reason = counts.most_common(1)[0][0] if counts else PassReason.NO_FACE
    anyway = {
        PassReason.SIDE_FACE: "; --max-yaw-deg says how far it may be turned",
        PassReason.MOUTH_COVERED: "; --face-points FILE draws it all the same",
        PassReason.NOT_CHOSEN: "; choose with --face",
    }
    return f"no face can be drawn: most often, {PASSED_WORDS[reason]}{anyway.get(reason, '')}"


def _lost_notes(looked: Looked) -> list[str]:
    """Of frames that cannot be decoded."""
    first_s, last_s = float(looked.times_s[0]), float(looked.times_s[-1])
    inside = int(((looked.lost_s > first_s) & (looked.lost_s < last_s)).sum())
    around = len(looked.lost_s) - inside
    notes = []
    if inside:
        notes.append(f"{counted(inside, 'frame')} cannot be decoded: the frame before each stands in its place.")
    if around:
        notes.append(
            f"{counted(around, 'frame')} at the ends of the video cannot be decoded: the result begins or ends without "
            f"{'it' if around == 1 else 'them'}."
        )
    return notes


def shape_of(picture_format: PictureFormat) -> PictureShape:
    """How the pictures of a result are shown."""
    matrix = picture_format.display_matrix
    packed = None if matrix is None else struct.pack("=9i", *matrix)
    ratio = picture_format.pixel_ratio or Fraction(1)
    return picture_shape(picture_format.width_px, picture_format.height_px, ratio, packed)


def open_source(uri: str, out: str, config: InferConfig, limit_s: float | None = None) -> Source:
    """out: the result, whose suffix says what it can hold.

    Raises MediaError, NotThereError, StorageError; ModelFileError for the face models; ValueError for the suffix.
    """
    info = probe(uri)
    if limit_s is not None:
        info = replace(info, num_frames=min(info.num_frames, max(1, round(limit_s * FPS))))
    return Source(uri, info, out, config, np.inf if limit_s is None else limit_s)


def faces_picture_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.faces.jpg")
