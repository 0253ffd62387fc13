"""Pass one: decode the video once, find its shots, and follow every face through every frame.

It goes by units of two minutes, each of which is a file when it is done: a run that was stopped goes on with the next
one. Units begin a little before their own frames, so that shots and faces go on across their borders.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import av
import numpy as np

from lipforge.model.clock import FPS
from lipforge.model.faces.boxes import iou
from lipforge.model.faces.covered import CoveredMouths
from lipforge.model.faces.face import FaceBackend
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.config import FacesConfig, ShotsConfig
from lipforge.pipeline.infer.choose import StretchScore
from lipforge.pipeline.infer.memory import give_back
from lipforge.pipeline.infer.protocols import Cancelled, Stopped
from lipforge.pipeline.infer.stretches import SyncStretches
from lipforge.pipeline.infer.usable import MEASURES, FaceLog, TrackMeasures
from lipforge.pipeline.infer.work import write_whole
from lipforge.pipeline.media.geometry import PictureShape
from lipforge.pipeline.media.grid import to_grid
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.video import SourceFrame, decode_video
from lipforge.pipeline.stages.faces import TrackFaces
from lipforge.pipeline.stages.shots import SplitShots

UNIT_S = 120.0
SHORTEST_UNIT_S = 30.0
"""A shorter rest belongs to the unit before it."""
TRIM_EVERY_FRAMES = 250
MARGIN_S = 1.0
"""Before a unit's own frames, where the faces of the unit before are found again."""
SAME_FACE = 0.5
"""IoU of two boxes of one frame from which they are one face."""
_SCORES = np.dtype(
    [
        ("start_frame", "i4"),
        ("num_frames", "i4"),
        ("confidence", "f8"),
        ("offset_frames", "i4"),
        ("speech_ratio", "f8"),
    ]
)
Scores = dict[int, list[StretchScore]]
"""By track number."""


@dataclass(frozen=True)
class Looked:
    """What pass one found out."""

    times_s: np.ndarray
    """float64 [N]: of the frames that can be decoded, on the clock of media/video.py."""
    shots: np.ndarray
    """int32 [N]"""
    lost_s: np.ndarray
    """float64: moments of frames that cannot be decoded."""
    tracks: list[TrackMeasures]
    scores: Scores
    """Empty without old sound."""


@dataclass
class _Unit:
    times_s: np.ndarray
    shots: np.ndarray
    lost_s: np.ndarray
    goes_on: bool
    """Its first shot began before it."""
    tracks: list[TrackMeasures]
    """Frames count from the unit's first; those before it are negative."""
    scores: Scores


class Looker:
    """Pass one of one video."""

    def __init__(
        self,
        uri: str,
        info: VideoInfo,
        backend: FaceBackend,
        covered: CoveredMouths,
        to_output: Callable[[av.VideoFrame], av.VideoFrame],
        shape: PictureShape,
        open_sync: Callable[[int, int], SyncStretches | None],
        end_s: float = np.inf,
    ) -> None:
        """to_output: a decoded picture as the result stores it; shape: how that is shown.

        open_sync: from a span on the 25 fps grid, what scores its faces against the old sound; None without one.
        end_s: frames from here on do not count.
        """
        self.uri, self.info, self.backend, self.covered = uri, info, backend, covered
        self.to_output, self.shape, self.open_sync, self.end_s = to_output, shape, open_sync, end_s

    def look(self, folder: Path, on_second: Callable[[float], None], stopped: Stopped) -> Looked:
        """folder: keeps finished units. on_second: told how far it is, in seconds of the video."""
        units = []
        for number, (start_s, end_s) in enumerate(unit_spans(self.info.num_frames / FPS)):
            path = folder / f"faces-{number:05d}.npz"
            unit = _read(path)
            if unit is None:
                unit = self._look_at(start_s, min(end_s, self.end_s), on_second, stopped)
                _write(path, unit)
            on_second(min(end_s, self.info.num_frames / FPS))
            units.append(unit)
        return _joined(units)

    def _look_at(self, start_s: float, end_s: float, on_second: Callable[[float], None], stopped: Stopped) -> _Unit:
        log = FaceLog(self.backend, self.covered)
        times_s: list[float] = []
        shots: list[int] = []
        lost_s: list[float] = []

        def logged() -> Iterator[tuple[float, Frame]]:
            for frame, time_s in self._tracked(start_s, end_s, lost_s, stopped):
                times_s.append(time_s)
                shots.append(frame.shot_index)
                log.add(frame, time_s)
                on_second(max(time_s, start_s))
                yield time_s, frame
                if len(times_s) % TRIM_EVERY_FRAMES == 0:
                    give_back()

        first, end = round(start_s * FPS), round(min(end_s * FPS, self.info.num_frames))
        sync = self.open_sync(first, end)
        frames = logged()
        for index, frame in to_grid(frames, first, end):
            if sync is not None and frame is not None:
                sync.add(replace(frame, index=index))
        for _ in frames:  # those after the last of the grid count, too
            pass
        own = int(np.searchsorted(times_s, start_s - 1e-6))
        tracks = log.finish()
        for track in tracks:
            track.rows["frame"] -= own
        return _Unit(
            np.array(times_s[own:]),
            np.array(shots[own:], np.int32),
            np.array([time_s for time_s in lost_s if start_s <= time_s < end_s]),
            bool(0 < own < len(shots) and shots[own - 1] == shots[own]),
            tracks,
            {} if sync is None else {track + 1: scores for track, scores in sync.finish().items()},
        )

    def _tracked(
        self, start_s: float, end_s: float, lost_s: list[float], stopped: Stopped
    ) -> Iterator[tuple[Frame, float]]:
        """Frames with their faces, from a little before start_s to end_s, counted from 0."""
        times_s: list[float] = []
        to_rgb = ToRgb(self.info)
        fps = max(self.info.mean_fps, 5.0)
        faces = FacesConfig(
            detect_every_frames=max(1, round(fps)),
            search_every_frames=max(1, round(fps / 5)),
            max_gap_frames=max(1, round(fps / 5)),
        )

        def decoded() -> Iterator[SourceFrame]:
            first, end = (
                max(0, int((start_s - MARGIN_S) * FPS)),
                min((end_s + MARGIN_S) * FPS + 1, self.info.num_frames),
            )
            for frame in decode_video(self.uri, self.info, first, int(end)):
                if stopped():
                    raise Cancelled
                if frame.image is None:
                    lost_s.append(frame.time_s)
                elif frame.time_s >= start_s - MARGIN_S:
                    yield replace(frame, image=self.to_output(frame.image), shape=self.shape, scale=1.0)

        def converted() -> Iterator[Frame]:
            for number, frame in enumerate(SplitShots(ShotsConfig()).process(decoded())):
                times_s.append(frame.time_s)
                yield Frame(number, to_rgb.convert(frame), frame.shot_index)

        for frame in TrackFaces(faces, self.backend).process(converted()):
            if times_s[frame.index] >= end_s - 1e-6:
                return
            yield frame, times_s[frame.index]


def unit_spans(length_s: float) -> list[tuple[float, float]]:
    """(start, end) in seconds; the last one has no end."""
    count = max(1, int(length_s // UNIT_S) + (length_s % UNIT_S >= SHORTEST_UNIT_S))
    return [(number * UNIT_S, (number + 1) * UNIT_S if number + 1 < count else np.inf) for number in range(count)]


def _joined(units: list[_Unit]) -> Looked:
    """One list of frames, shots and tracks; what goes on across a border is one."""
    times_s, shots = [], []
    tracks: list[TrackMeasures] = []
    scores: Scores = {}
    num_frames, num_shots = 0, 0
    for unit in units:
        first_shot = int(unit.shots[0]) if len(unit.shots) else 0
        shift = num_shots - first_shot - (1 if unit.goes_on and num_shots else 0)
        for track in unit.tracks:
            here = track.rows[track.rows["frame"] >= 0].copy()
            if not len(here):
                continue
            same = _same_face(track.rows, tracks, num_frames) if unit.goes_on else None
            here["frame"] += num_frames
            if same is None:
                same = TrackMeasures(len(tracks) + 1, track.shot_index + shift, here)
                tracks.append(same)
            else:
                same.rows = np.concatenate([same.rows, here])
            scores.setdefault(same.number, []).extend(unit.scores.get(track.number, []))
        times_s.append(unit.times_s)
        shots.append(unit.shots + shift)
        num_frames += len(unit.times_s)
        if len(unit.shots):
            num_shots = int(shots[-1][-1]) + 1
    lost_s = np.concatenate([unit.lost_s for unit in units])
    return Looked(np.concatenate(times_s), np.concatenate(shots), lost_s, tracks, scores)


def _same_face(rows: np.ndarray, tracks: list[TrackMeasures], num_frames: int) -> TrackMeasures | None:
    """The track that has this face in the frames before the border. rows: their frames count from the border."""
    for row in rows[rows["frame"] < 0][::-1]:
        for track in tracks:
            at = np.searchsorted(track.rows["frame"], num_frames + row["frame"])
            if at < len(track.rows) and track.rows["frame"][at] == num_frames + row["frame"]:
                boxes = tuple(map(float, row["box"])), tuple(map(float, track.rows["box"][at]))
                if iou(boxes[0], boxes[1]) > SAME_FACE:  # type: ignore[arg-type]
                    return track
    return None


def _write(path: Path, unit: _Unit) -> None:
    buffer = io.BytesIO()
    arrays = {"times_s": unit.times_s, "shots": unit.shots, "lost_s": unit.lost_s, "goes_on": np.array(unit.goes_on)}
    for track in unit.tracks:
        scores = [astuple(score) for score in unit.scores.get(track.number, [])]
        arrays[f"track.{track.number}.{track.shot_index}"] = track.rows
        arrays[f"scores.{track.number}"] = np.array(scores, _SCORES)
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())


def _read(path: Path) -> _Unit | None:
    """None where there is none, or one that cannot be read: it is made again."""
    try:
        return _read_whole(path)
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError):
        path.unlink()
        return None


def _read_whole(path: Path) -> _Unit:
    with np.load(path, allow_pickle=False) as arrays:
        tracks, scores = [], {}
        for name in arrays.files:
            kind, _, rest = name.partition(".")
            if kind == "track":
                number, shot = map(int, rest.split("."))
                tracks.append(TrackMeasures(number, shot, arrays[name]))
                scores[number] = [StretchScore(*row.item()) for row in arrays[f"scores.{number}"]]
        assert all(track.rows.dtype == MEASURES for track in tracks)
        return _Unit(arrays["times_s"], arrays["shots"], arrays["lost_s"], bool(arrays["goes_on"]), tracks, scores)
