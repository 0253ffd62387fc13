"""Warp each frame of a clip so that the face sits where the template says."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from lipforge.datasets_manifest.geometry import ClipGeometry, encode_geometry
from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.faces.alignment import align, crop_corners, outside_ratio, steady, to_square
from lipforge.model.faces.face import FaceBackend
from lipforge.model.faces.lip_points import mouth_images
from lipforge.model.faces.pose import head_pose
from lipforge.model.faces.templates import Template, crop_matrices
from lipforge.pipeline.clip import Clip, FacePiece
from lipforge.pipeline.config import AlignConfig, FacesConfig


class AlignFace:
    """Warps each frame to an aligned crop, in one interpolation from source pixels. Rejects faces that are too small.

    The alignment points, or boxes, are smoothed within the clip. Scorers are calibrated on the latentsync crop: under
    another template it is warped as well, from the same pixels as ever.

    Adds  frames: uint8 [T, R, R, 3] RGB;  npz: bytes, its geometry;
    `crop_px`, `align_template`, `upscale_ratio` and `outside_ratio`, the most of any frame: a frame with stripes below
    the chin is trained on however few they are;
    scored_frames: uint8 [T, S, S, 3], under another template;
    lip_points: float32 [T, P, 3] and mouths: uint8 [T, 64, 64], if the face backend has lip points.
    """

    name = Stage.ALIGN

    def __init__(self, config: AlignConfig, faces: FacesConfig, backend: FaceBackend) -> None:
        self.config = config
        self.faces = faces
        self.backend = backend

    def process(self, clip: Clip) -> list[Clip]:
        template, size = self.config.template, self.config.resolution
        landmarks = fill_gaps([piece.landmarks for piece in clip.pieces])
        boxes = fill_gaps([piece.face_box for piece in clip.pieces])
        scales = np.array([piece.scale for piece in clip.pieces])
        sizes = np.array([piece.frame_size_px for piece in clip.pieces]) / scales[:, None]
        smoothing = self.config.smoothing_frames
        points = steady(self.backend.alignment_points(landmarks), smoothing)
        matrices = crop_matrices(template, points, landmarks, boxes, sizes, size, smoothing)
        ratio = float(np.median(np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2]))) / scales))
        clip = clip.measured(crop_px=size, align_template=template.value, upscale_ratio=ratio)
        height = clip.measures["face_size_px"]
        if height < self.faces.min_height_px:
            detail = f"the face is {height:.0f} px high; {self.faces.min_height_px} px are needed"
            return [clip.rejected(self.name, Reason.FACE_TOO_SMALL, detail)]
        if clip.face_width_px < (self.faces.min_width_px or 0):
            detail = f"the face is {clip.face_width_px:.0f} px wide; {self.faces.min_width_px} px are needed"
            return [clip.rejected(self.name, Reason.FACE_TOO_SMALL, detail)]
        if ratio > self.config.max_upscale_ratio:
            detail = (
                f"the crop would be enlarged {ratio:.1f} times; at most {self.config.max_upscale_ratio:g} is allowed"
            )
            return [clip.rejected(self.name, Reason.FACE_TOO_SMALL, detail)]
        geometry = self._geometry(clip, landmarks, boxes, points, matrices)
        clip = clip.measured(outside_ratio=float(geometry.outside_ratio.max()))
        stored = [piece.stored or piece for piece in clip.pieces]
        frames = warp_all(stored, matrices, size)
        scored = None
        if template is not Template.LATENTSYNC:
            side = self.config.scored_px
            upright = to_square(align(points, side), side)
            scored = warp_all(clip.pieces, upright, side)
        lip_points = self.backend.sync_points(landmarks)
        mouths = None if lip_points is None else mouth_images(frames if scored is None else scored)
        aligned = replace(clip, pieces=[], frames=frames, scored_frames=scored, npz=encode_geometry(geometry))
        return [replace(aligned, lip_points=lip_points, mouths=mouths)]

    def _geometry(
        self, clip: Clip, landmarks: np.ndarray, boxes: np.ndarray, points: np.ndarray, matrices: np.ndarray
    ) -> ClipGeometry:
        """From pixels of the first frame with these proportions, as pieces have them, to each frame's own."""
        scales = np.array([piece.scale for piece in clip.pieces])
        sizes = np.array([piece.frame_size_px for piece in clip.pieces])
        to_reference = np.zeros((len(scales), 3, 3))
        to_reference[:, 0, 0] = to_reference[:, 1, 1] = 1 / scales
        to_reference[:, :2, 2] = ((1 / scales - 1) / 2)[:, None]
        to_reference[:, 2, 2] = 1
        to_crop = matrices @ to_reference

        def in_frames(places: np.ndarray) -> np.ndarray:
            by_frame = scales[:, None, None]
            return (places * by_frame + (by_frame - 1) / 2).astype(np.float32)

        size = self.config.resolution
        outside = [outside_ratio(crop_corners(m, size), *wh) for m, wh in zip(to_crop, sizes.tolist(), strict=True)]
        poses = np.array([head_pose(places) for places in landmarks], np.float32)
        across = points[:, 1] - points[:, 0]
        outlines = self.backend.outlines(landmarks)
        return ClipGeometry(
            crop_px=size,
            to_crop=to_crop.astype(np.float32),
            frame_size_px=sizes.astype(np.int32),
            found=np.array([piece.landmarks is not None for piece in clip.pieces]),
            outside_ratio=np.array(outside, np.float32),
            yaw_deg=poses[:, 0],
            pitch_deg=poses[:, 1],
            roll_deg=np.degrees(np.arctan2(across[:, 1], across[:, 0])).astype(np.float32),
            face_box=in_frames(boxes),
            alignment_points=in_frames(points),
            mouth_outer=in_frames(outlines.mouth_outer),
            mouth_inner=in_frames(outlines.mouth_inner),
            face_outline=in_frames(outlines.face),
        )


def fill_gaps(landmarks: list[np.ndarray | None]) -> np.ndarray:
    """float32 [T, K, 3]: gaps are interpolated linearly, and filled with the nearest landmarks at both ends."""
    known = [index for index, points in enumerate(landmarks) if points is not None]
    filled = np.empty((len(landmarks), *landmarks[known[0]].shape), dtype=np.float32)  # type: ignore[union-attr]
    filled[: known[0]] = landmarks[known[0]]
    for index in known:
        filled[index] = landmarks[index]
    for before, after in zip(known, [*known[1:], len(landmarks)], strict=True):
        for index in range(before + 1, after):
            share = (index - before) / (after - before)
            end = filled[after] if after < len(landmarks) else filled[before]
            filled[index] = (1 - share) * filled[before] + share * end
    return filled


def warp_all(pieces: Sequence[FacePiece], matrices: np.ndarray, size: int) -> np.ndarray:
    """uint8 [T, size, size, 3]: the crops of T frames. matrices: [T, 2, 3], from frame pixels to crop pixels."""
    crops = np.empty((len(pieces), size, size, 3), np.uint8)
    for piece, matrix, crop in zip(pieces, matrices, crops, strict=True):
        warp(piece, matrix, size, into=crop)
    return crops


def warp(piece: FacePiece, matrix: np.ndarray, size: int, into: np.ndarray | None = None) -> np.ndarray:
    """uint8 [size, size, 3]: the crop of one frame. matrix: [2, 3], from frame pixels to crop pixels."""
    offset = np.array([piece.left, piece.top]) + (piece.step - 1) / 2
    from_piece = np.column_stack([matrix[:, :2] * piece.step, matrix[:, :2] @ offset + matrix[:, 2]])
    # Linear: cubic kernels ring at hard edges such as teeth. Large faces are already averaged down in the piece.
    return cv2.warpAffine(piece.rgb, from_piece, (size, size), into, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
