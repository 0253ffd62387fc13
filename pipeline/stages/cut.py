"""Cut the usable runs of each face track into clips, and account for every other frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.clock import FPS
from lipforge.model.faces.alignment import align, crop_corners, to_square
from lipforge.model.faces.face import FaceBackend
from lipforge.pipeline.clip import Clip, FacePiece, Frame, Unit
from lipforge.pipeline.config import AlignConfig, CutConfig, FacePolicy, FacesConfig
from lipforge.pipeline.sources.seams import belongs_to_its_unit, border_box

PIECE_MARGIN = 0.12
"""Margin kept around the crop on each side, as a share of its size, because smoothing moves the crop a little."""


def split_run(num_frames: int, min_frames: int, max_frames: int) -> list[int]:
    """Lengths of the clips to cut from a run of usable frames, in order. They add up to the run.

    A run below min_frames gives none. Clips of max_frames are cut while at least min_frames + max_frames are left; the
    rest is one clip or two equal ones. So a run can be cut before its end is known, and 11 s gives two clips of 5.5 s.
    """
    lengths = []
    while num_frames >= min_frames + max_frames:
        lengths.append(max_frames)
        num_frames -= max_frames
    if num_frames > max_frames:
        lengths += [num_frames - num_frames // 2, num_frames // 2]
    elif num_frames >= min_frames:
        lengths.append(num_frames)
    return lengths


@dataclass
class _Run:
    """Frames of one track that can become clips, held as pieces around the face."""

    track_index: int
    shot_index: int
    start_frame: int
    pieces: list[FacePiece] = field(default_factory=list)

    @property
    def num_trailing_gaps(self) -> int:
        count = 0
        for piece in reversed(self.pieces):
            if piece.landmarks is not None:
                break
            count += 1
        return count


class CutRuns:
    """Turns a stream of tracked frames into candidate clips, each as soon as its end is known."""

    name = Stage.CUT

    def __init__(self, config: CutConfig, faces: FacesConfig, crop: AlignConfig, backend: FaceBackend) -> None:
        self.config = config
        self.faces = faces
        self.crop = crop
        self.backend = backend

    def process(self, unit: Unit, frames: Iterable[Frame]) -> Iterator[Clip]:
        cutter = _Cutter(self, unit)
        for frame in frames:
            yield from filter(belongs_to_its_unit, cutter.add(frame))
        yield from filter(belongs_to_its_unit, cutter.finish())

    def piece(self, rgb: np.ndarray, landmarks: np.ndarray) -> FacePiece | None:
        """The area of a frame that the aligned crop needs; None when too much of the crop or the face lies outside."""
        height, width = rgb.shape[:2]
        x, y = landmarks[:, 0], landmarks[:, 1]
        outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
        if outside.mean() > self.crop.max_hidden_ratio:
            return None
        points = self.backend.alignment_points(landmarks)
        matrix = to_square(align(points[None], self.crop.resolution), self.crop.resolution)[0]
        corners = crop_corners(matrix, self.crop.resolution)
        if _outside_ratio(corners, width, height) > self.crop.max_outside_ratio:
            return None
        step = max(1, int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
        margin = PIECE_MARGIN * (corners.max(axis=0) - corners.min(axis=0))
        left, top = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
        right, bottom = np.minimum(np.ceil(corners.max(axis=0) + margin), (width, height)).astype(int)
        return _take(rgb, int(left), int(top), int(right), int(bottom), step, landmarks)


def _take(
    rgb: np.ndarray, left: int, top: int, right: int, bottom: int, step: int, landmarks: np.ndarray | None
) -> FacePiece:
    if step == 1:
        return FacePiece(rgb[top:bottom, left:right].copy(), left, top, 1, landmarks)
    columns, rows = max(1, (right - left) // step), max(1, (bottom - top) // step)
    area = rgb[top : top + rows * step, left : left + columns * step]
    small = cv2.resize(area, (columns, rows), interpolation=cv2.INTER_AREA)
    return FacePiece(small, left, top, step, landmarks)


def _outside_ratio(corners: np.ndarray, width: int, height: int) -> float:
    """Share of a parallelogram [4, 2] that lies outside the frame, sampled at 16 x 16 points."""
    grid = (np.arange(16) + 0.5) / 16
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    points = corners[0] + grid[:, None, None] * across + grid[None, :, None] * down
    inside = (points >= -0.5).all(axis=-1) & (points[..., 0] <= width - 0.5) & (points[..., 1] <= height - 0.5)
    return float(1 - inside.mean())


class _Cutter:
    """The state of one unit: open runs, and what is known of each frame."""

    def __init__(self, stage: CutRuns, unit: Unit) -> None:
        self.stage = stage
        self.unit = unit
        self.runs: dict[int, _Run] = {}
        self.cut_off: dict[int, Clip] = {}
        """By track: the current stretch in which its crop leaves the frame."""
        self.covered = np.zeros(unit.num_frames, dtype=bool)
        self.undecoded = np.zeros(unit.num_frames, dtype=bool)
        self.silent = np.zeros(unit.num_frames, dtype=bool)
        """Frames for which the source has no audio."""
        self.sizes: list[dict[int, tuple[float, float]]] = []
        """Per frame of the unit: native width and height of each face, by track."""

    def add(self, frame: Frame) -> Iterator[Clip]:
        position = frame.index - self.unit.start_frame
        self.undecoded[position] = frame.rgb is None
        self.silent[position] = not frame.has_audio
        self.sizes.append({track: (face.width_px, face.height_px) for track, face in frame.faces.items()})
        for track, run in list(self.runs.items()):
            if not frame.has_audio:
                yield from self._close(track, Reason.NO_AUDIO)
            elif run.shot_index != frame.shot_index or frame.rgb is None:
                yield from self._close(track, Reason.TOO_SHORT)
            elif track not in frame.faces:
                if run.num_trailing_gaps >= self.stage.faces.max_gap_frames:
                    yield from self._close(track, Reason.FACE_LOST)
                else:
                    run.pieces.append(_same_place(frame, run.pieces[-1]))
        for track, face in frame.faces.items() if frame.has_audio else ():
            assert frame.rgb is not None
            piece = self.stage.piece(frame.rgb, face.points)
            if piece is None:
                yield from self._close(track, Reason.FACE_CUT_OFF)
                yield from self._note_cut_off(track, frame)
                continue
            if track not in self.runs:
                self.runs[track] = _Run(track, frame.shot_index, frame.index)
            run = self.runs[track]
            run.pieces.append(piece.in_reference(frame.scale))
            limit = self.stage.config.min_frames + self.stage.config.max_frames
            if len(run.pieces) - run.num_trailing_gaps >= limit:
                yield self._take_clip(run, self.stage.config.max_frames)
        for track in [track for track, clip in self.cut_off.items() if clip.end_frame <= frame.index]:
            yield self.cut_off.pop(track)

    def finish(self) -> Iterator[Clip]:
        for track in list(self.runs):
            yield from self._close(track, Reason.TOO_SHORT)
        yield from self.cut_off.values()
        missing = self.unit.num_frames - len(self.sizes)
        self.undecoded[len(self.sizes) :] = True
        self.sizes += [{}] * missing
        yield from self._rest()

    def _close(self, track: int, why_ended: Reason) -> Iterator[Clip]:
        run = self.runs.pop(track, None)
        if run is None:
            return
        if run.num_trailing_gaps:
            del run.pieces[-run.num_trailing_gaps :]
        lengths = split_run(len(run.pieces), self.stage.config.min_frames, self.stage.config.max_frames)
        for length in lengths:
            yield self._take_clip(run, length)
        if not lengths:
            clip = self._take_clip(run, len(run.pieces))
            shortest = self.stage.config.min_clip_s
            endings = {
                Reason.TOO_SHORT: "the shot or the work unit ends",
                Reason.FACE_LOST: "the face is lost",
                Reason.FACE_CUT_OFF: "the face leaves the picture",
                Reason.NO_AUDIO: "the audio ends",
            }
            detail = f"{clip.num_frames / FPS:.2f} s until {endings[why_ended]}; a clip needs {shortest:g} s"
            clip = replace(clip, border_box=border_box(clip), pieces=clip.pieces[len(clip.pieces) // 2 :][:1])
            # These frames have audio; those that have none get a row of their own.
            reason = Reason.TOO_SHORT if why_ended is Reason.NO_AUDIO else why_ended
            yield clip.rejected(Stage.CUT, reason, detail)

    def _take_clip(self, run: _Run, num_frames: int) -> Clip:
        """Remove the first frames of a run and make a clip of them."""
        pieces, run.pieces = run.pieces[:num_frames], run.pieces[num_frames:]
        start, run.start_frame = run.start_frame, run.start_frame + num_frames
        first, last = start - self.unit.start_frame, start - self.unit.start_frame + num_frames
        self.covered[first:last] = True
        sizes = self.sizes[first:last]
        own = [size[run.track_index] for size in sizes if run.track_index in size]
        width, height = np.median(own, axis=0).tolist()
        max_faces = max(len(size) for size in sizes)
        clip = Clip(
            unit=self.unit,
            start_frame=start,
            end_frame=start + num_frames,
            shot_index=run.shot_index,
            track_index=run.track_index,
            pieces=pieces,
            face_width_px=width,
        ).measured(face_size_px=height, max_faces=max_faces)
        return self._apply_policy(clip, sizes)

    def _apply_policy(self, clip: Clip, sizes: list[dict[int, tuple[float, float]]]) -> Clip:
        policy = self.stage.faces.policy
        if policy is FacePolicy.SINGLE and clip.measures["max_faces"] > 1:
            detail = f"{clip.measures['max_faces']} faces at once; policy is single"
            return clip.rejected(Stage.CUT, Reason.MANY_FACES, detail)
        if policy is FacePolicy.LARGEST:
            tracks = {track for size in sizes for track in size}
            medians = {t: float(np.median([s[t][1] if t in s else 0.0 for s in sizes])) for t in tracks}
            largest = max(medians, key=lambda t: (medians[t], -t))
            if largest != clip.track_index:
                return clip.rejected(Stage.CUT, Reason.MANY_FACES, "another face is larger; policy is largest")
        return clip

    def _note_cut_off(self, track: int, frame: Frame) -> Iterator[Clip]:
        self.covered[frame.index - self.unit.start_frame] = True
        clip = self.cut_off.get(track)
        if clip is not None and clip.shot_index != frame.shot_index:
            yield self.cut_off.pop(track)
            clip = None
        if clip is None:
            assert frame.rgb is not None
            poster = FacePiece(_thumbnail(frame.rgb), 0, 0, 1, None)
            crop = self.stage.crop
            clip = Clip(
                unit=self.unit,
                start_frame=frame.index,
                end_frame=frame.index,
                shot_index=frame.shot_index,
                track_index=track,
                pieces=[poster],
            ).measured(face_size_px=frame.faces[track].height_px, max_faces=len(frame.faces))
            detail = (
                f"more than {crop.max_outside_ratio:.0%} of the aligned crop, "
                f"or {crop.max_hidden_ratio:.0%} of the face, lies outside the picture"
            )
            clip = clip.rejected(Stage.CUT, Reason.FACE_CUT_OFF, detail)
        self.cut_off[track] = replace(clip, end_frame=frame.index + 1)

    def _rest(self) -> Iterator[Clip]:
        """Spans that no candidate covers: frames without a face or audio, or that cannot be decoded."""
        state = np.where(self.undecoded, 2, np.where(self.silent, 3, 1))
        state[self.covered] = 0
        edges = [0, *(np.flatnonzero(np.diff(state)) + 1), len(state)]
        for first, end in pairwise(edges):
            if state[first] == 0:
                continue
            span = Clip(
                unit=self.unit,
                start_frame=self.unit.start_frame + int(first),
                end_frame=self.unit.start_frame + int(end),
            ).measured(max_faces=max(len(size) for size in self.sizes[first:end]))
            if state[first] == 2:
                yield span.failed(Stage.RESAMPLE, Reason.DECODE_ERROR, "these frames cannot be decoded")
            elif state[first] == 3:
                yield span.rejected(Stage.RESAMPLE, Reason.NO_AUDIO, "the audio does not cover these frames")
            else:
                yield span.rejected(Stage.TRACK_FACES, Reason.NO_FACE, "no face was found")


def _same_place(frame: Frame, piece: FacePiece) -> FacePiece:
    """The area of this frame where the face was last seen, for a frame in which it was not found."""
    assert frame.rgb is not None
    height, width = frame.rgb.shape[:2]
    rows, columns = piece.rgb.shape[:2]
    step = piece.step * frame.scale
    left, top = min(round(piece.left * frame.scale), width - 1), min(round(piece.top * frame.scale), height - 1)
    right, bottom = min(round(left + columns * step), width), min(round(top + rows * step), height)
    return _take(frame.rgb, left, top, right, bottom, max(1, round(step)), None).in_reference(frame.scale)


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    step = max(1, max(rgb.shape[:2]) // 320)
    return np.ascontiguousarray(rgb[::step, ::step])
