"""Draws what covers mouths (fingers, fists, microphones, cups, captions) on small faces, and how cameras see it.

Faces are float32 [64, 64, 3] RGB in 0..255, as `model.faces.covered.small_face` cuts them out; lips are [P, 2], their
outline in pixels of that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from lipforge.model.faces.covered import FACE_PX

_FINE = 4
"""Shapes are drawn at this many times the size, then averaged, so that their edges are smooth."""
_MOUTH_PX = 22.0
"""Width of a mouth and a little skin around it."""
_ROWS, _COLUMNS = np.mgrid[0:FACE_PX, 0:FACE_PX].astype(np.float32)
COVERED, FREE = 0.5, 0.08
"""Share of the lips from which a mouth counts as covered, and up to which as free. Examples between are not used."""


@dataclass
class _Shape:
    mask: np.ndarray
    """uint8 [256, 256]."""
    shade: np.ndarray | float = 1.0
    """float32 [64, 64]: how light falls on it."""
    is_dark: bool = False


class Covers:
    """One source of randomness, and pictures whose parts serve as textures."""

    def __init__(self, rng: np.random.Generator, pictures: list[np.ndarray]) -> None:
        self.rng = rng
        self.pictures = pictures

    def cover(self, face: np.ndarray, lips: np.ndarray, beside: bool) -> tuple[np.ndarray, float]:
        """(face with something in front of it, share of the lips that this hides). beside: of the mouth, not on it."""
        rng = self.rng
        centre = lips.mean(axis=0) + rng.normal(0, 6, 2)
        if beside:
            centre = lips.mean(axis=0) + _direction(rng.uniform(0, 2 * np.pi)) * rng.uniform(16, 38)
        size = _MOUTH_PX * (rng.uniform(0.3, 1.2) if beside else rng.uniform(0.55, 1.35))
        if beside and rng.random() < 0.3:
            mask, picture = self._background(lips), self._texture(face)
        elif rng.random() < 0.12:
            mask, picture = self._caption(centre, size, face)
        else:
            shape = self._shape(centre, size)
            texture = self._black() if shape.is_dark else self._texture(face)
            mask, picture = shape.mask, texture * np.clip(np.atleast_3d(shape.shade), 0, 2)
        alpha = cv2.resize(mask, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        if rng.random() < 0.4:
            alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.5))
        inside = np.zeros((FACE_PX, FACE_PX), np.uint8)
        cv2.fillConvexPoly(inside, cv2.convexHull(lips.astype(np.float32)).round().astype(np.int32), (1,))
        share = float((alpha[inside > 0] > 0.5).mean()) if inside.any() else 0.0
        if rng.random() < 0.5:
            fallen = np.roll(alpha, rng.integers(-3, 4, 2).tolist(), (0, 1))
            face = face * (1 - cv2.GaussianBlur(fallen, (0, 0), rng.uniform(1, 4)) * rng.uniform(0, 0.5))[..., None]
        return face * (1 - alpha[..., None]) + np.clip(picture, 0, 255) * alpha[..., None], share

    def _shape(self, centre: np.ndarray, size: float) -> _Shape:
        kinds: tuple[Callable[[np.ndarray, float], _Shape], ...] = (
            self._fingers,
            self._blob,
            self._microphone,
            self._box,
        )
        shape = kinds[self.rng.choice(4, p=(0.34, 0.28, 0.25, 0.13))](centre, size)
        if self.rng.random() < 0.25:  # it goes on to the picture's edge, as arms do
            away = _direction(self.rng.uniform(0, np.pi))
            _line(shape.mask, centre, centre + away * 90, size * self.rng.uniform(0.5, 1.2))
        return shape

    def _fingers(self, centre: np.ndarray, size: float) -> _Shape:
        rng = self.rng
        along = _direction(rng.uniform(0, 2 * np.pi))
        across = np.array([-along[1], along[0]])
        width, count = size * rng.uniform(0.2, 0.34), int(rng.integers(2, 6))
        dark = rng.uniform(0.45, 0.85)
        whole, shade = _empty(), np.zeros((FACE_PX, FACE_PX), np.float32)
        for number in range(count):
            middle = centre + across * (number - (count - 1) / 2) * width * rng.uniform(0.95, 1.1)
            length, finger = size * rng.uniform(0.4, 1.0), _empty()
            _line(finger, middle - along * length * 2.2, middle + along * length, width)
            small = (cv2.resize(finger, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
            height = np.sqrt(np.clip(cv2.distanceTransform(small, cv2.DIST_L2, 3) / (width / 2), 0, 1))
            shade = np.where(small > 0, dark + (1 - dark) * height, shade)
            whole = np.maximum(whole, finger)
        return _Shape(whole, shade)

    def _blob(self, centre: np.ndarray, size: float) -> _Shape:
        rng = self.rng
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
        radii = size * rng.uniform(0.6, 1.3, len(angles))
        corners = centre + np.stack([radii * np.cos(angles) * rng.uniform(0.7, 1.4), radii * np.sin(angles)], axis=1)
        mask = cv2.fillPoly(_empty(), [(corners * _FINE).astype(np.int32)], (255,))
        mask = np.where(cv2.GaussianBlur(mask, (0, 0), rng.uniform(3, 14)) > 110, 255, 0).astype(np.uint8)
        far = ((_COLUMNS - centre[0]) ** 2 + (_ROWS - centre[1]) ** 2) / (1.2 * size) ** 2
        return _Shape(mask, 0.65 + 0.35 * np.sqrt(np.clip(1 - far, 0, 1)))

    def _microphone(self, centre: np.ndarray, size: float) -> _Shape:
        """A ball on a handle that comes from below."""
        rng = self.rng
        radius, mask = size * rng.uniform(0.45, 0.95), _empty()
        axes = int(radius * _FINE), int(radius * _FINE * rng.uniform(0.85, 1.4))
        cv2.ellipse(mask, _fine(centre), axes, rng.uniform(0, 360), 0, 360, (255,), -1)
        _line(mask, centre, centre + _direction(rng.normal(np.pi / 2, 0.6)) * 90, radius * rng.uniform(0.5, 1.2))
        light = centre - np.array([rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.6)]) * radius
        far = ((_COLUMNS - light[0]) ** 2 + (_ROWS - light[1]) ** 2) / (2 * (radius * 0.45) ** 2)
        return _Shape(mask, 0.5 + rng.uniform(0.3, 1.2) * np.exp(-far), is_dark=rng.random() < 0.75)

    def _box(self, centre: np.ndarray, size: float) -> _Shape:
        rng = self.rng
        sides = size * rng.uniform(0.5, 1.3) * 2 * _FINE, size * rng.uniform(0.4, 1.4) * 2 * _FINE
        corners = cv2.boxPoints((tuple((centre * _FINE).tolist()), sides, float(np.degrees(rng.normal(0, 0.25)))))
        mask = cv2.fillPoly(_empty(), [corners.astype(np.int32)], (255,))
        return _Shape(mask, 1 + 0.4 * rng.normal() * (_COLUMNS - centre[0]) / 32)

    def _caption(self, centre: np.ndarray, size: float, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Letters with an outline, or on a bar."""
        rng = self.rng
        height = rng.uniform(0.3, 0.9)
        word = "".join(chr(rng.integers(65, 91)) if rng.random() < 0.8 else " " for _ in range(14))
        place = int(-rng.uniform(0, 80)), int(centre[1] * _FINE + height * 12)
        letters, mask = _empty(), _empty()
        cv2.putText(letters, word, place, cv2.FONT_HERSHEY_SIMPLEX, height * 1.6, (255,), int(2 + height * 3))
        if rng.random() < 0.7:
            half = size * rng.uniform(0.3, 0.6)
            mask[max(0, int((centre[1] - half) * _FINE)) : max(0, int((centre[1] + half) * _FINE))] = 255
            ground = self._texture(face)
        else:
            cv2.putText(mask, word, place, cv2.FONT_HERSHEY_SIMPLEX, height * 1.6, (255,), int(4 + height * 8))
            ground = np.full((FACE_PX, FACE_PX, 3), rng.uniform(0, 60), np.float32)
        ink = cv2.resize(letters, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
        colour = np.full(3, 255.0) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
        return mask, ground * (1 - ink) + colour * ink

    def _background(self, lips: np.ndarray) -> np.ndarray:
        """uint8 [256, 256]: all on one side of the mouth, as behind a face that is turned away. It hides no lip."""
        mask = _empty()
        edge = self.rng.uniform(1, 8)
        if self.rng.random() < 0.5:
            mask[:, : max(0, int((lips[:, 0].min() - edge) * _FINE))] = 255
        else:
            mask[:, int((lips[:, 0].max() + edge) * _FINE) :] = 255
        tilt = cv2.getRotationMatrix2D(_fine(lips.mean(axis=0)), self.rng.normal(0, 8), 1)
        return cv2.warpAffine(mask, tilt, mask.shape, borderMode=cv2.BORDER_REPLICATE)

    def _texture(self, face: np.ndarray) -> np.ndarray:
        """float32 [64, 64, 3]: a lit and noisy colour, a part of some picture, or soft patches of colours."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.45:
            noise = rng.normal(0, 1, (FACE_PX, FACE_PX)).astype(np.float32)
            noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 4))
            return self._colour(face) * self._light(0.018) + noise[..., None] * rng.uniform(0, 28)
        if kind < 0.8:
            side = int(rng.integers(10, 40))
            left, top = rng.integers(0, FACE_PX - side, 2)
            part = self.pictures[rng.integers(len(self.pictures))][top : top + side, left : left + side]
            part = cv2.resize(part, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR).astype(np.float32)
            return part[:, :: 1 if rng.random() < 0.5 else -1] * rng.uniform(0.6, 1.3)
        coarse = rng.normal(0, rng.uniform(10, 60), (rng.integers(2, 14), rng.integers(2, 14), 3)).astype(np.float32)
        return self._colour(face) + cv2.resize(coarse, (FACE_PX, FACE_PX), interpolation=cv2.INTER_CUBIC)

    def _colour(self, face: np.ndarray) -> np.ndarray:
        """float [3]: mostly of the person's own skin or hair, as hands have it."""
        rng = self.rng
        if rng.random() < 0.55:
            left, top = rng.integers(12, 52), rng.integers(2, 38)
            skin = face[top : top + 3, left : left + 3].mean(axis=(0, 1))
            return np.clip(skin * rng.uniform(0.55, 1.3) + rng.normal(0, 8, 3), 0, 255)
        return np.full(3, rng.uniform(0, 70)) if rng.random() < 0.4 else rng.uniform(0, 255, 3)

    def _black(self) -> np.ndarray:
        grain = self.rng.normal(0, self.rng.uniform(0, 10), (FACE_PX, FACE_PX, 1))
        return self.rng.uniform(5, 60) + self.rng.normal(0, 4, 3) + grain

    def _light(self, strength: float) -> np.ndarray:
        """float [64, 64, 1]: light from one side."""
        slope = self.rng.normal(0, 1, 2) * self.rng.uniform(0, strength)
        return np.clip(1 + (_COLUMNS - 32) * slope[0] + (_ROWS - 32) * slope[1], 0.1, 3)[..., None]

    def photographed(self, face: np.ndarray) -> np.ndarray:
        """uint8 [64, 64, 3]: turned and moved a little, in other light, blurred, small, compressed, noisy."""
        rng = self.rng
        if rng.random() < 0.5:
            face = face[:, ::-1]
        centre = np.array([FACE_PX / 2, 36.0])
        turn = cv2.getRotationMatrix2D((0.0, 0.0), rng.normal(0, 5), 1 + rng.normal(0, 0.06))
        turn[0] *= rng.uniform(0.65, 1) if rng.random() < 0.2 else 1  # narrow, as from the side
        turn[:, 2] = centre + rng.normal(0, 2, 2) - turn[:, :2] @ centre
        face = cv2.warpAffine(
            np.ascontiguousarray(face, np.float32), turn, (FACE_PX, FACE_PX), borderMode=cv2.BORDER_REPLICATE
        )
        face = np.repeat(face.mean(axis=2, keepdims=True), 3, axis=2) if rng.random() < 0.15 else face
        face = face * (1 + rng.normal(0, 0.1, 3))
        face = 255 * np.clip(face / 255, 0, 1) ** np.exp(rng.normal(0, 0.35))
        face = face * self._light(0.014)
        if rng.random() < 0.15:
            away = _direction(rng.uniform(0, 2 * np.pi))
            far = (_COLUMNS - 32) * away[0] + (_ROWS - 36) * away[1] + rng.normal(0, 10)
            face = face * (1 - rng.uniform(0.2, 0.7) / (1 + np.exp(-far / rng.uniform(0.5, 4))))[..., None]
        face = self._softened(face * rng.uniform(0.15, 1.25))
        return np.clip(face + rng.normal(0, rng.uniform(0, 8), face.shape), 0, 255).astype(np.uint8)

    def _softened(self, face: np.ndarray) -> np.ndarray:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.35:
            return cv2.GaussianBlur(face, (0, 0), rng.uniform(0.4, 2.2))
        if kind < 0.5:
            side = int(rng.integers(14, 40))
            small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
            return cv2.resize(small, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR)
        if kind < 0.6:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))]
            stored = cv2.imencode(".jpg", np.clip(face, 0, 255).astype(np.uint8), quality)[1]
            read = cv2.imdecode(stored, cv2.IMREAD_COLOR)
            assert read is not None
            return read.astype(np.float32)
        if kind < 0.7:
            path = np.zeros((9, 9), np.float32)
            cv2.line(path, (4, 4), tuple(rng.integers(0, 9, 2).tolist()), (1.0,))
            return cv2.filter2D(face, -1, path / path.sum())
        return face


def _empty() -> np.ndarray:
    return np.zeros((FACE_PX * _FINE, FACE_PX * _FINE), np.uint8)


def _direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _fine(point: np.ndarray) -> tuple[int, int]:
    return int(point[0] * _FINE), int(point[1] * _FINE)


def _line(mask: np.ndarray, start: np.ndarray, end: np.ndarray, width: float) -> None:
    cv2.line(mask, _fine(start), _fine(end), (255,), max(2, int(width * _FINE)), cv2.LINE_AA)
