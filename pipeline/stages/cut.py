"""Cut the usable runs of each face track into clips, and account for every other frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.clock import FPS
from lipforge.model.faces.alignment import align, crop_corners, hidden_ratio, outside_ratio, to_square
from lipforge.model.faces.boxes import Box
from lipforge.model.faces.face import FaceBackend, FaceLandmarks
from lipforge.model.faces.picture import Area, Picture
from lipforge.model.faces.templates import Template, crop_matrices
from lipforge.pipeline.clip import Clip, FacePiece, Frame, Unit
from lipforge.pipeline.config import AlignConfig, CutConfig, FacePolicy, FacesConfig
from lipforge.pipeline.sources.seams import belongs_to_its_unit, border_box
from lipforge.pipeline.stages.stills import StillFace

PIECE_MARGIN = 0.12
"""Margin kept around the crop on each side, as a share of its size, because smoothing moves the crop a little."""


def split_run(num_frames: int, min_frames: int, max_frames: int) -> list[int]:
    """Lengths of the clips to cut from a run of usable frames, in order. They add up to the run.

    min_frames: at most half of max_frames. A run below it gives none, a run of up to max_frames one clip; a longer one
    gives as few clips as possible, none shorter than half of max_frames: 11 s are 5.5 + 5.5 s, 26 s are 10 + 10 + 6 s.
    Clips of max_frames are cut while one and a half of them are left, so a run can be cut before its end is known.
    """
    lengths = []
    while num_frames >= _frames_ahead(max_frames):
        lengths.append(max_frames)
        num_frames -= max_frames
    if num_frames > max_frames:
        lengths += [num_frames - num_frames // 2, num_frames // 2]
    elif num_frames >= min_frames:
        lengths.append(num_frames)
    return lengths


def _frames_ahead(max_frames: int) -> int:
    """Frames of a run after which its first clip is cut: the rest is at least half of a clip."""
    return max_frames + -(-max_frames // 2)


@dataclass
class _Run:
    """Frames of one track that can become clips, held as pieces around the face."""

    track_index: int
    shot_index: int
    start_frame: int
    still: StillFace
    pieces: list[FacePiece] = field(default_factory=list)

    @property
    def num_trailing_gaps(self) -> int:
        count = 0
        for piece in reversed(self.pieces):
            if piece.landmarks is not None:
                break
            count += 1
        return count

    @property
    def num_sure(self) -> int:
        """Frames that will be of the run whatever comes next: not those of a gap, or of what may be a freeze."""
        return len(self.pieces) - max(self.num_trailing_gaps, self.still.num_still)


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

    def piece(self, picture: Picture, face: FaceLandmarks) -> FacePiece | None:
        """What the crops need of a frame; None when too much of the latentsync crop, or of the face, lies outside."""
        width, height = picture.size_px
        landmarks, side = face.points, self.crop.scored_px
        if hidden_ratio(landmarks, width, height) > self.crop.max_hidden_ratio:
            return None
        points = self.backend.alignment_points(landmarks)
        matrix = to_square(align(points[None], side), side)[0]
        if outside_ratio(crop_corners(matrix, side), width, height) > self.crop.max_outside_ratio:
            return None
        box = np.array(face.box, np.float32).reshape(2, 2)
        piece = replace(_area(picture, matrix, side), landmarks=landmarks, face_box=box)
        if self.crop.template is Template.LATENTSYNC:
            return piece
        side, size = self.crop.resolution, np.array([[width, height]])
        (own,) = crop_matrices(self.crop.template, points[None], landmarks[None], box[None], size, side, 0)
        return replace(piece, stored=_area(picture, own, side))


def _area(picture: Picture, matrix: np.ndarray, side: int) -> FacePiece:
    """What a crop needs of a frame, with a margin. matrix: [2, 3], pixels of the frame to those of the crop."""
    width, height = picture.size_px
    corners = crop_corners(matrix, side)
    step = max(1, int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    margin = PIECE_MARGIN * (corners.max(axis=0) - corners.min(axis=0))
    left, top = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0) + margin), (width, height)).astype(int)
    return _take(picture, Area(int(left), int(top), int(right), int(bottom)), step)


def _take(picture: Picture, area: Area, step: int) -> FacePiece:
    left, top = area[:2]
    if step == 1:
        return FacePiece(picture.part(area).copy(), left, top, 1, None, frame_size_px=picture.size_px)
    columns, rows = (max(1, side // step) for side in area.size_px)
    right, bottom = min(left + columns * step, picture.width_px), min(top + rows * step, picture.height_px)
    small = cv2.resize(picture.part(Area(left, top, right, bottom)), (columns, rows), interpolation=cv2.INTER_AREA)
    return FacePiece(small, left, top, step, None, frame_size_px=picture.size_px)


class _Cutter:
    """The state of one unit: open runs, and what is known of each frame."""

    def __init__(self, stage: CutRuns, unit: Unit) -> None:
        self.stage = stage
        self.unit = unit
        self.runs: dict[int, _Run] = {}
        self.frozen: dict[int, StillFace] = {}
        """By track: the face that stands still in its current stretch."""
        self.stretches: dict[int, Clip] = {}
        """By track: the current stretch in which it cannot be used, because it is frozen or leaves the frame."""
        self.covered = np.zeros(unit.num_frames, dtype=bool)
        self.undecoded = np.zeros(unit.num_frames, dtype=bool)
        self.silent = np.zeros(unit.num_frames, dtype=bool)
        """Frames for which the source has no audio."""
        self.sizes: list[dict[int, tuple[float, float]]] = []
        """Per frame of the unit: native width and height of each face, by track."""

    def add(self, frame: Frame) -> Iterator[Clip]:
        position = frame.index - self.unit.start_frame
        self.undecoded[position] = frame.picture is None
        self.silent[position] = not frame.has_audio
        self.sizes.append({track: (face.width_px, face.height_px) for track, face in frame.faces.items()})
        for track, run in list(self.runs.items()):
            if not frame.has_audio:
                yield from self._close(track, Reason.NO_AUDIO)
            elif run.shot_index != frame.shot_index or frame.picture is None:
                yield from self._close(track, Reason.TOO_SHORT)
            elif track not in frame.faces:
                if run.num_trailing_gaps >= self.stage.faces.max_gap_frames:
                    yield from self._close(track, Reason.FACE_LOST)
                else:
                    run.pieces.append(_same_place(frame, run.pieces[-1]))
                    run.still.miss()
        for track, face in frame.faces.items() if frame.has_audio else ():
            assert frame.picture is not None
            piece = self.stage.piece(frame.picture, face)
            if piece is None:
                yield from self._close(track, Reason.FACE_CUT_OFF)
                yield from self._note_cut_off(track, frame)
            elif track in self.frozen and self.frozen[track].follow(frame.picture, piece):
                yield from self._note_frozen(track, frame, frame.index)
            else:
                yield from self._use(track, frame, piece)
        for track in [track for track, clip in self.stretches.items() if clip.end_frame <= frame.index]:
            self.frozen.pop(track, None)
            yield self.stretches.pop(track)

    def _use(self, track: int, frame: Frame, piece: FacePiece) -> Iterator[Clip]:
        """Add a frame to the run of its track, unless that turns out to stand still."""
        assert frame.picture is not None
        run = self.runs.get(track)
        if run is None:
            run = self.runs[track] = _Run(track, frame.shot_index, frame.index, StillFace(frame.picture, piece))
        else:
            run.still.follow(frame.picture, piece)
        run.pieces.append(piece.in_reference(frame.scale))
        if run.still.num_still > self.stage.config.max_still_frames:
            num_before = len(run.pieces) - run.still.num_still
            num_before -= num_before == 1  # nothing but the picture that stands still
            first_frame = run.start_frame + num_before
            del run.pieces[num_before:]
            yield from self._close(track, Reason.FROZEN)
            self.frozen[track] = run.still
            yield from self._note_frozen(track, frame, first_frame)
        elif run.num_sure >= _frames_ahead(self.stage.config.max_frames):
            yield self._take_clip(run, self.stage.config.max_frames)

    def finish(self) -> Iterator[Clip]:
        for track in list(self.runs):
            yield from self._close(track, Reason.TOO_SHORT)
        yield from self.stretches.values()
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
        if not run.pieces:
            return
        min_frames, max_frames = self.stage.config.min_frames, self.stage.config.max_frames
        at_border = None
        if 2 * len(run.pieces) < max_frames:
            at_border = border_box(self.unit, run.start_frame, [piece.landmarks for piece in run.pieces])
        lengths = split_run(len(run.pieces), min_frames, max_frames) if at_border is None else []
        for length in lengths:
            yield self._take_clip(run, length)
        if not lengths:
            yield self._short(self._take_clip(run, len(run.pieces)), why_ended, at_border)

    def _short(self, clip: Clip, why_ended: Reason, at_border: Box | None) -> Clip:
        """A run that gives no clip: it is too short, or will be cut with what lies beyond the border of the unit."""
        endings = {
            Reason.TOO_SHORT: "the shot or the work unit ends",
            Reason.FACE_LOST: "the face is lost",
            Reason.FACE_CUT_OFF: "the face leaves the picture",
            Reason.NO_AUDIO: "the audio ends",
            Reason.FROZEN: "the picture stands still",
        }
        shortest = f"{self.stage.config.min_run_s:g} s"
        need = f"a run needs {shortest}"
        if at_border is not None:
            need = f"it is cut with the short run beyond the border of the unit, if any; they need {shortest}"
        detail = f"{clip.num_frames / FPS:.2f} s until {endings[why_ended]}; {need}"
        clip = replace(clip, border_box=at_border, pieces=clip.pieces[len(clip.pieces) // 2 :][:1])
        # These frames move and have audio; those that do not get rows of their own.
        reason = Reason.TOO_SHORT if why_ended in (Reason.FROZEN, Reason.NO_AUDIO) else why_ended
        return clip.rejected(Stage.CUT, reason, detail)

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
        crop = self.stage.crop
        detail = (
            f"more than {crop.max_outside_ratio:.0%} of the aligned crop, "
            f"or {crop.max_hidden_ratio:.0%} of the face, lies outside the picture"
        )
        self.frozen.pop(track, None)
        yield from self._note(track, frame, frame.index, Reason.FACE_CUT_OFF, detail)

    def _note_frozen(self, track: int, frame: Frame, first_frame: int) -> Iterator[Clip]:
        detail = f"the face stands still for more than {self.stage.config.max_still_s:g} s"
        yield from self._note(track, frame, first_frame, Reason.FROZEN, detail)

    def _note(self, track: int, frame: Frame, first_frame: int, reason: Reason, detail: str) -> Iterator[Clip]:
        """Add a frame to the stretch of a track that cannot be used, or begin one at `first_frame`."""
        clip = self.stretches.get(track)
        if clip is not None and (clip.shot_index != frame.shot_index or clip.reason is not reason):
            yield self.stretches.pop(track)
            clip = None
        if clip is None:
            assert frame.picture is not None
            clip = Clip(
                unit=self.unit,
                start_frame=first_frame,
                end_frame=first_frame,
                shot_index=frame.shot_index,
                track_index=track,
                pieces=[FacePiece(_thumbnail(frame.picture), 0, 0, 1, None)],
            ).measured(face_size_px=frame.faces[track].height_px, max_faces=len(frame.faces))
            clip = clip.rejected(Stage.CUT, reason, detail)
        self.stretches[track] = replace(clip, end_frame=frame.index + 1)
        self.covered[first_frame - self.unit.start_frame : frame.index + 1 - self.unit.start_frame] = True

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
    assert frame.picture is not None
    width, height = frame.picture.size_px
    rows, columns = piece.rgb.shape[:2]
    step = piece.step * frame.scale
    left, top = min(round(piece.left * frame.scale), width - 1), min(round(piece.top * frame.scale), height - 1)
    right, bottom = min(round(left + columns * step), width), min(round(top + rows * step), height)
    same = _take(frame.picture, Area(left, top, right, bottom), max(1, round(step))).in_reference(frame.scale)
    return same if piece.stored is None else replace(same, stored=_same_place(frame, piece.stored))


def _thumbnail(picture: Picture) -> np.ndarray:
    step = max(1, max(picture.size_px) // 320)
    return np.ascontiguousarray(picture.whole()[::step, ::step])
