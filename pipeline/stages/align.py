"""Warp each frame of a clip so that the face sits where the template says."""

from dataclasses import replace

import cv2
import numpy as np

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.faces.alignment import align, steady, to_square
from lipforge.model.faces.face import FaceBackend
from lipforge.model.faces.lip_points import mouth_images
from lipforge.pipeline.clip import Clip, FacePiece
from lipforge.pipeline.config import AlignConfig, FacesConfig


class AlignFace:
    """Warps each frame to an aligned crop, in one interpolation from source pixels. Rejects faces that are too small.

    The alignment points are smoothed within the clip.

    Adds  frames: uint8 [T, R, R, 3] RGB;  `crop_px` and `upscale_ratio`;
    lip_points: float32 [T, P, 3] and mouths: uint8 [T, 64, 64], if the face backend has lip points.
    """

    name = Stage.ALIGN

    def __init__(self, config: AlignConfig, faces: FacesConfig, backend: FaceBackend) -> None:
        self.config = config
        self.faces = faces
        self.backend = backend

    def process(self, clip: Clip) -> list[Clip]:
        landmarks = fill_gaps([piece.landmarks for piece in clip.pieces])
        size = self.config.resolution
        points = steady(self.backend.alignment_points(landmarks), self.config.smoothing_frames)
        matrices = to_square(align(points, size), size)
        scales = np.array([piece.scale for piece in clip.pieces])
        ratio = float(np.median(np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2]))) / scales))
        clip = clip.measured(crop_px=size, upscale_ratio=ratio)
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
        frames = np.stack([warp(piece, matrix, size) for piece, matrix in zip(clip.pieces, matrices, strict=True)])
        lip_points = self.backend.sync_points(landmarks)
        mouths = None if lip_points is None else mouth_images(frames)
        return [replace(clip, pieces=[], frames=frames, lip_points=lip_points, mouths=mouths)]


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


def warp(piece: FacePiece, matrix: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the crop of one frame. matrix: [2, 3], from frame pixels to crop pixels."""
    offset = np.array([piece.left, piece.top]) + (piece.step - 1) / 2
    from_piece = np.column_stack([matrix[:, :2] * piece.step, matrix[:, :2] @ offset + matrix[:, 2]])
    # Linear: cubic kernels ring at hard edges such as teeth. Large faces are already averaged down in the piece.
    return cv2.warpAffine(piece.rgb, from_piece, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
