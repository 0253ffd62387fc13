"""Faces of a folder of videos, followed as in `lipforge prepare`, and what kind of test case each one is."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import SYNC_LANDMARKS
from lipforge.model.weights import load as weights
from lipforge.pipeline.clip import Source
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.recipe import CutOperator
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.probe import Probe

MARGIN = 40
"""Frames of audio on each side of a track: room for a planted shift and for the scorer's own search."""
MIN_EYES_PX = 60
MAX_YAW_DEG = 30
CLEAN = "clean"
_EYES = [int(np.flatnonzero(landmark == SYNC_LANDMARKS)[0]) for landmark in (33, 263)]
_SETTINGS = {
    "cut": {"min_run_s": 2, "max_clip_s": 30},
    "faces": {"min_height_px": 30},
    "align": {"max_upscale_ratio": 12},
}
"""Wider limits than the defaults, to measure short clips and small faces too."""


@dataclass(frozen=True, eq=False)
class Track:
    """One face through one shot, and its audio."""

    file: str
    about: dict[str, str]
    """The file's row of clips.csv."""
    track_index: int
    start_frame: int
    points: np.ndarray
    """float32 [T, len(SYNC_LANDMARKS), 3], pixels."""
    mouths: np.ndarray
    """uint8 [T, 64, 64]."""
    full_audio: np.ndarray
    """float32 [(T + 2 * MARGIN) * 640] at 16 kHz."""

    @cached_property
    def eyes_px(self) -> float:
        return eyes_px(self.points)

    @cached_property
    def yaw_deg(self) -> float:
        return yaw_deg(self.points)

    @property
    def num_frames(self) -> int:
        return len(self.points)

    @property
    def name(self) -> str:
        return f"{Path(self.file).stem} ({self.track_index}, {self.start_frame / 25:g} s)"

    @property
    def speaker(self) -> str:
        """clips.csv names no speakers: each file counts as one."""
        return Path(self.file).stem

    @property
    def reference(self) -> int | None:
        """The file's own offset, as SyncScore.offset_frames; None if unknown."""
        return int(text) if (text := self.about["native_av_offset_frames"]) else None

    def audio(self, first_frame: int, num_frames: int, late_by: int = 0) -> np.ndarray:
        """Audio of a span with SYNC_MARGIN_FRAMES frames of margin, delayed by `late_by` frames."""
        begin = (first_frame + MARGIN - SYNC_MARGIN_FRAMES - late_by) * SAMPLES_PER_FRAME
        return self.full_audio[begin : begin + (num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME]


def eyes_px(points: np.ndarray) -> float:
    """Median distance between the outer eye corners, in pixels. points: float [T, len(SYNC_LANDMARKS), 3]."""
    across = points[:, _EYES[1]] - points[:, _EYES[0]]
    return float(np.median(np.hypot(across[:, 0], across[:, 1])))


def yaw_deg(points: np.ndarray) -> float:
    """Median yaw of the head, from the depth of the eyes in the mesh: 0 is frontal."""
    across = points[:, _EYES[1]] - points[:, _EYES[0]]
    return float(np.median(np.degrees(np.arctan2(across[:, 2], across[:, 0]))))


def read_about(folder: Path) -> dict[str, dict[str, str]]:
    """clips.csv by file name. Raises ValueError if it is missing."""
    path = folder / "clips.csv"
    if not path.is_file():
        raise ValueError(f"{path} is missing: it says what each clip is (columns file, trainable, natural_sync, ...)")
    with path.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


class Follower:
    """Follows faces as `lipforge prepare` does, with wider limits."""

    def __init__(self) -> None:
        self.cut = CutOperator(PrepareConfig.model_validate(_SETTINGS), weights.load("builtin"))

    def tracks(self, path: Path, about: dict[str, str]) -> list[Track]:
        """All usable faces of one video."""
        video = Probe().process(Source(str(path)))
        if video.info is None or video.reason is not None:
            return []
        found = []
        for unit in plan_units(video, 300.0):
            for clip in self.cut.process(unit).clips:
                if not clip.mp4:
                    continue
                assert clip.lip_points is not None and clip.mouths is not None
                found.append(
                    Track(
                        file=path.name,
                        about=about,
                        track_index=clip.track_index,
                        start_frame=clip.start_frame,
                        points=clip.lip_points,
                        mouths=clip.mouths,
                        full_audio=read_audio(
                            str(path), video.info, clip.start_frame - MARGIN, clip.end_frame + MARGIN
                        ).samples,
                    )
                )
        return found


def kind_of(track: Track, num_tracks_at_once: int) -> str:
    """CLEAN, or the first reason why a track is not what the promise covers.

    num_tracks_at_once: usable faces of the file at the same time.
    """
    about, sync = track.about, track.about["natural_sync"]
    rules = {
        "several faces": num_tracks_at_once > 1,
        "dubbed or re-voiced": "ADR" in sync,
        "generated": "generated" in sync,
        "silent audio": "silent" in sync,
        "music or noise, no speech": sync == "n/a" and about["language"] == "none",
        "drawn": sync == "n/a",
        "film music": sync == "uncertain",
        "rap, cuts to the audience": sync == "yes-partly",
        "sync not known": sync not in ("yes", "probable"),
        "may have shaped the weights": about["trainable"] == "yes",
        "small face": track.eyes_px < MIN_EYES_PX,
        "turned head": abs(track.yaw_deg) > MAX_YAW_DEG,
    }
    return next((kind for kind, holds in rules.items() if holds), CLEAN)


def kinds(tracks: list[Track]) -> dict[Track, str]:
    """The kind of each track."""

    def at_once(track: Track) -> int:
        return sum(
            other.file == track.file
            and other.start_frame < track.start_frame + track.num_frames
            and track.start_frame < other.start_frame + other.num_frames
            for other in tracks
        )

    return {track: kind_of(track, at_once(track)) for track in tracks}
