"""KEY.npz: where each frame of a clip lies in its source. The one place that knows this format.

A pixel is named by its centre: (0, 0) is the middle of the picture's first pixel, x grows to the right, y down.
*Source pixels* are those of the frame of that moment as a player shows it: square pixels, upright. Where a stream
changes its size under way, each frame has its own, of `frame_size_px`. *Crop pixels* are those of KEY.mp4.

In the file, which `numpy.load(file, allow_pickle=False)` reads (T frames at 25 fps, little-endian):

    version, crop_px        int32 []: 1; side of the crop
    unit_px                 float32 []: source pixels per step of the points
    to_crop                 float32 [T, 2, 3]
    frame_size_px           int32 [T, 2]
    found                   bool [T]
    outside_ratio           float16 [T]
    pose                    int16 [T, 3]: yaw, pitch and roll in tenths of a degree
    face_box                int16 [T, 2, 2]: the corners x0, y0 and x1, y1
    alignment_points        int16 [T, 3, 2]
    mouth_outer, mouth_inner, face_outline   int16 [T, P, 2]

Points (from face_box on) are stored as differences, which compress well: from one point to the next, and of these from
one frame to the next; the first ones are from 0. So source pixels are

    numpy.cumsum(numpy.cumsum(rows, axis=1, dtype=numpy.int16), axis=0, dtype=numpy.int16) * unit_px

The unit is a power of two and at most 1/512 of the face's height, unless the picture is larger than 32,767 units.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy

VERSION = 1
_POINTS = ("face_box", "alignment_points", "mouth_outer", "mouth_inner", "face_outline")
_STEPS_PER_FACE = 512
_LARGEST_STEP = 32_767
_MAX_FRAMES, _MAX_POINTS, _MAX_SIDE_PX = 2**16, 2**10, 2**16
_MAX_BYTES = 2**26
"""Of all arrays. A minute has 1 MB."""


_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|]\w\d)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,9},? ?){0,3})\), \} *\n",
    re.DOTALL,
)


class GeometryError(ValueError):
    """Not the geometry of a clip, or a damaged one."""


@dataclass(frozen=True, eq=False)
class ClipGeometry:
    """Of T frames. Coordinates are those of the module's docstring."""

    crop_px: int
    """Side of the crop."""
    to_crop: np.ndarray
    """float32 [T, 2, 3]: source pixels to crop pixels."""
    frame_size_px: np.ndarray
    """int32 [T, 2]: width and height of the source's frame."""
    found: np.ndarray
    """bool [T]: False where the face was lost for a moment, and landmarks are those of the neighbours, interpolated."""
    outside_ratio: np.ndarray
    """float32 [T]: share of the crop that lies outside the source's frame, where its last pixels repeat."""
    yaw_deg: np.ndarray
    """float32 [T]: positive when the face looks to the picture's right (model/faces/pose.py)."""
    pitch_deg: np.ndarray
    """float32 [T]: positive when it looks up."""
    roll_deg: np.ndarray
    """float32 [T]: tilt of the line between the brows in the picture, positive clockwise."""
    face_box: np.ndarray
    """float32 [T, 2, 2]: corners x0, y0 and x1, y1 of the face, forehead to chin. May reach beyond the frame."""
    alignment_points: np.ndarray
    """float32 [T, 3, 2]: image-left brow, image-right brow, nose, as alignment took them: smoothed over time."""
    mouth_outer: np.ndarray
    """float32 [T, P, 2]: closed outline of the lips (20 points by MediaPipe, 12 by InsightFace)."""
    mouth_inner: np.ndarray
    """float32 [T, P, 2]: closed outline of the opening between the lips (20 or 8 points)."""
    face_outline: np.ndarray
    """float32 [T, P, 2]: closed outline of the face (36 points, forehead to chin; or 43, without the forehead)."""

    def __len__(self) -> int:
        return len(self.to_crop)

    def to_source(self) -> np.ndarray:
        """float64 [T, 2, 3]: crop pixels to source pixels."""
        inverse = np.linalg.inv(self.to_crop[:, :, :2].astype(np.float64))
        return np.concatenate([inverse, -inverse @ self.to_crop[:, :, 2:].astype(np.float64)], axis=2)

    def in_crop(self, points: np.ndarray) -> np.ndarray:
        """Points of the source [T, P, 2], such as `mouth_outer`, in crop pixels: float32 [T, P, 2]."""
        return (points @ self.to_crop[:, :, :2].transpose(0, 2, 1) + self.to_crop[:, None, :, 2]).astype(np.float32)


def encode_geometry(geometry: ClipGeometry) -> bytes:
    """The same geometry always gives the same bytes. Raises ValueError for shapes or numbers that cannot be stored."""
    unit_px = _unit_px(geometry)
    poses = np.stack([geometry.yaw_deg, geometry.pitch_deg, geometry.roll_deg], axis=1)
    arrays = {
        "version": np.int32(VERSION),
        "crop_px": np.int32(geometry.crop_px),
        "unit_px": np.float32(unit_px),
        "to_crop": geometry.to_crop.astype("<f4"),
        "frame_size_px": geometry.frame_size_px.astype("<i4"),
        "found": geometry.found.astype(bool),
        "outside_ratio": geometry.outside_ratio.astype("<f2"),
        "pose": np.round(poses * 10).astype("<i2"),
    }
    for name in _POINTS:
        steps = np.round(getattr(geometry, name) / unit_px).astype(np.int64)
        differences = np.diff(np.diff(steps, axis=1, prepend=0), axis=0, prepend=0)
        arrays[name] = differences.astype("<i2")  # wraps around, as do the sums
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, whatever the time
            content = io.BytesIO()
            npy.write_array(content, np.asarray(array), (1, 0), allow_pickle=False)
            archive.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, 9)
    data = buffer.getvalue()
    decode_geometry(data, len(geometry))
    return data


def _unit_px(geometry: ClipGeometry) -> float:
    heights = geometry.face_box[:, 1, 1] - geometry.face_box[:, 0, 1]
    unit_px = 2.0 ** np.floor(np.log2(max(float(np.median(heights)), 1.0) / _STEPS_PER_FACE))
    largest = max(float(np.abs(getattr(geometry, name)).max()) for name in _POINTS)
    while largest > unit_px * _LARGEST_STEP:  # a small face in a huge picture
        unit_px *= 2
    return unit_px


def decode_geometry(data: bytes, num_frames: int) -> ClipGeometry:
    """data: KEY.npz; num_frames: of the clip. Whatever the bytes are, nothing is unpickled, and memory is bounded.

    Raises GeometryError when they are not the geometry of a clip of that length.
    """
    try:
        arrays = _read_arrays(data)
    except GeometryError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise GeometryError(f"no zip of arrays: {error}") from error
    if missing := _RULES.keys() - arrays.keys():
        raise GeometryError(f"no {' and no '.join(sorted(missing))} in it")
    return _checked(arrays, num_frames)


def _read_arrays(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    left = _MAX_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise GeometryError(f"{name} is there twice")
            if name not in _RULES:  # of a later version
                continue
            if member.file_size > left or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise GeometryError(f"{name} is too large, or packed in another way")
            with archive.open(member) as file:
                content = file.read(left + 1)
            left -= len(content)
            arrays[name] = _array(content, name)
    return arrays


def _array(content: bytes, name: str) -> np.ndarray:
    """An array from a .npy file of version 1.0. Its header is matched, not evaluated."""
    header = _HEADER.match(content)
    if header is None:
        raise GeometryError(f"{name} is no array of numbers")
    wanted = np.dtype(_RULES[name].dtype)
    shape = [int(side) for side in re.findall(rb"\d+", header["shape"])]
    if header["dtype"].decode() != wanted.str or len(content) - header.end() != math.prod(shape) * wanted.itemsize:
        raise GeometryError(f"{name}: {len(content)} bytes of {header['dtype'].decode()} {shape}, expected {wanted}")
    return np.frombuffer(content, wanted, offset=header.end()).reshape(shape)


@dataclass(frozen=True)
class _Rule:
    dtype: str
    sides: Callable[[int], tuple[int | None, ...]] = lambda _frames: ()
    """Shape for a number of frames; None: any number of points."""


_RULES = {
    "version": _Rule("<i4"),
    "crop_px": _Rule("<i4"),
    "unit_px": _Rule("<f4"),
    "to_crop": _Rule("<f4", lambda frames: (frames, 2, 3)),
    "frame_size_px": _Rule("<i4", lambda frames: (frames, 2)),
    "found": _Rule("|b1", lambda frames: (frames,)),
    "outside_ratio": _Rule("<f2", lambda frames: (frames,)),
    "pose": _Rule("<i2", lambda frames: (frames, 3)),
    "face_box": _Rule("<i2", lambda frames: (frames, 2, 2)),
    "alignment_points": _Rule("<i2", lambda frames: (frames, 3, 2)),
    "mouth_outer": _Rule("<i2", lambda frames: (frames, None, 2)),
    "mouth_inner": _Rule("<i2", lambda frames: (frames, None, 2)),
    "face_outline": _Rule("<i2", lambda frames: (frames, None, 2)),
}


def _checked(arrays: dict[str, np.ndarray], num_frames: int) -> ClipGeometry:
    if arrays["version"].shape != () or arrays["version"] != VERSION:
        raise GeometryError(f"version {arrays['version']}, this lipforge reads {VERSION}")
    if not isinstance(num_frames, int) or not 0 < num_frames <= _MAX_FRAMES:  # as some JSON has it
        raise GeometryError(f"of a clip of {num_frames!r} frames")
    for name, rule in _RULES.items():
        shape, wanted = arrays[name].shape, rule.sides(num_frames)
        fits = len(shape) == len(wanted) and all(
            0 < side <= _MAX_POINTS if side_wanted is None else side == side_wanted
            for side, side_wanted in zip(shape, wanted, strict=True)
        )
        if not fits:
            raise GeometryError(f"{name} has the shape {list(shape)}, which is not that of {num_frames} frames")
    matrices, sizes, outside = arrays["to_crop"], arrays["frame_size_px"], arrays["outside_ratio"].astype(np.float32)
    unit_px, crop_px = float(arrays["unit_px"]), int(arrays["crop_px"])
    with np.errstate(all="ignore"):
        areas = np.linalg.det(matrices[:, :, :2].astype(np.float64))
    good = {
        "to_crop": np.isfinite(matrices).all() and np.isfinite(areas).all() and (np.abs(areas) > 1e-12).all(),
        "frame_size_px": ((sizes > 0) & (sizes <= _MAX_SIDE_PX)).all(),
        "outside_ratio": ((outside >= 0) & (outside <= 1)).all(),
        "unit_px": 0 < unit_px <= _MAX_SIDE_PX,
        "crop_px": 0 < crop_px <= _MAX_SIDE_PX,
    }
    bad = [name for name, is_good in good.items() if not is_good]
    if bad:
        raise GeometryError(f"{bad[0]} has values that cannot be")
    points: dict[str, Any] = {}
    for name in _POINTS:
        steps = np.cumsum(np.cumsum(arrays[name], axis=1, dtype=np.int16), axis=0, dtype=np.int16)
        points[name] = steps.astype(np.float32) * np.float32(unit_px)
    yaw, pitch, roll = arrays["pose"].T.astype(np.float32) / np.float32(10)
    return ClipGeometry(crop_px, matrices, sizes, arrays["found"], outside, yaw, pitch, roll, **points)
