"""Features that the lip-sync networks train on, computed once per clip, and groups of clips by speaker."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from scipy.cluster.vq import kmeans2

from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.model.sync.builtin import lip_motion, mel_power, mouth_motion, similarity_to
from lipforge.train.scorers.clips import TrainingClip
from lipforge.train.scorers.config import ScorerTrainingConfig

_LEFT = (61, 185, 40, 39, 37, 146, 91, 181, 84, 78, 191, 80, 81, 82, 95, 88, 178, 87, 149, 176, 148, 150)
_RIGHT = (291, 409, 270, 269, 267, 375, 321, 405, 314, 308, 415, 310, 311, 312, 324, 318, 402, 317, 378, 400, 377, 379)
_LEFT_UPPER = (33, 133, 67, 109, 103, 54, 127, 162, 21)
_RIGHT_UPPER = (263, 362, 297, 338, 332, 284, 356, 389, 251)
_MIRROR_IMAGE = dict(zip(_LEFT + _LEFT_UPPER, _RIGHT + _RIGHT_UPPER, strict=True))
"""FaceMesh points of the image-left half and their mirror images."""


def add_features(clips: Iterable[TrainingClip], config: ScorerTrainingConfig) -> tuple[list[TrainingClip], np.ndarray]:
    """Clips with features and speaker groups, and the mean head [U, 3] that their points are aligned to.

    Clips shorter than a training window are dropped. Raises ValueError if too few are left.
    """
    long_enough = [clip for clip in clips if clip.num_frames >= config.window_frames]
    if len(long_enough) < config.batch_size:
        raise ValueError(
            f"found {len(long_enough)} clips of at least {config.window_frames} frames; "
            f"training needs {config.batch_size} or more"
        )
    head = mean_head(np.stack([clip.points[clip.num_frames // 2, NUM_SPEAKING:] for clip in long_enough]))
    rng = np.random.default_rng(config.seed)
    featured = [
        replace(
            clip,
            lips=lip_motion(clip.points, head),
            waves=np.stack([mouth_motion(mouths) for mouths in framings(rng, clip.mouths, config.num_framings)]),
            power=mel_power(clip.audio),
        )
        for clip in long_enough
    ]
    return group_speakers(featured, head), head


def mean_head(shapes: np.ndarray) -> np.ndarray:
    """The upright, symmetric mean of upper faces.

    shapes: float [N, U, 3], the upper-face points of SYNC_LANDMARKS in pixels.
    Returns float64 [U, 3] with a root-mean-square size of 10: x to the right, y down, z away from the camera.
    """
    mirror = mirror_places()[NUM_SPEAKING:] - NUM_SPEAKING
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    head = shapes[0].astype(np.float64)
    for _ in range(8):
        turn, scale = similarity_to(head, shapes)
        head = np.einsum("n,nij,nuj->ui", scale, turn, shapes) / len(shapes)
        right = (head[mirror] - head)[head[mirror][:, 0] > head[:, 0]].sum(axis=0)
        x = right / np.linalg.norm(right)
        down = head[_place(4)] - head[_place(10)]  # forehead to tip of the nose
        y = down - x * (down @ x)
        y /= np.linalg.norm(y)
        head = head @ np.stack([x, y, np.cross(x, y)], axis=1)
        head = (head + head[mirror] * [-1, 1, 1]) / 2
        head *= 10 / np.sqrt((head**2).sum(axis=1).mean())
    return head


def _place(landmark: int) -> int:
    return SYNC_LANDMARKS.tolist().index(landmark) - NUM_SPEAKING


def mirror_places() -> np.ndarray:
    """int [len(SYNC_LANDMARKS)]: the index of each point's mirror image."""
    other = _MIRROR_IMAGE | {right: left for left, right in _MIRROR_IMAGE.items()}
    places = {int(landmark): place for place, landmark in enumerate(SYNC_LANDMARKS)}
    return np.array([places[other.get(int(landmark), int(landmark))] for landmark in SYNC_LANDMARKS])


def framings(rng: np.random.Generator, mouths: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Mouth images uint8 [T, 64, 64] as they are, then `count - 1` slightly rotated, shifted and scaled copies."""
    yield mouths
    middle = (MOUTH_PX / 2, MOUTH_PX / 2)
    for _ in range(count - 1):
        matrix = cv2.getRotationMatrix2D(middle, rng.normal(0, 4), np.exp(rng.normal(0, 0.1)))
        matrix[:, 2] += rng.normal(0, 3, 2)
        yield np.stack(
            [cv2.warpAffine(mouth, matrix, (MOUTH_PX, MOUTH_PX), borderMode=cv2.BORDER_REPLICATE) for mouth in mouths]
        )


def group_speakers(clips: list[TrainingClip], head: np.ndarray, num_groups: int = 40) -> list[TrainingClip]:
    """Clips with their group: the speaker where known, otherwise by the shape of the upper face.

    So the clips of a speaker are (nearly) always in one group.
    """
    named = sorted({clip.speaker for clip in clips if clip.speaker})
    unnamed = [clip for clip in clips if not clip.speaker]
    by_shape = dict(zip((clip.name for clip in unnamed), _shape_groups(unnamed, head, num_groups), strict=True))
    return [
        replace(clip, group=named.index(clip.speaker) if clip.speaker else len(named) + by_shape[clip.name])
        for clip in clips
    ]


def _shape_groups(clips: list[TrainingClip], head: np.ndarray, num_groups: int) -> list[int]:
    shapes = []
    for clip in clips:
        upper = clip.points[:, NUM_SPEAKING:].astype(np.float64)
        upper -= upper.mean(axis=1, keepdims=True)
        turn, scale = similarity_to(head, upper)
        shapes.append(np.median(np.einsum("t,tij,tuj->tui", scale, turn, upper), axis=0).ravel())
    if len(shapes) <= num_groups:
        return list(range(len(shapes)))
    return [int(label) for label in kmeans2(np.array(shapes), num_groups, minit="++", rng=1)[1]]


def split_speakers(clips: list[TrainingClip], seed: int) -> Iterator[tuple[list[TrainingClip], list[TrainingClip]]]:
    """(training clips, held-out clips of other groups), twice, so that each clip is held out once.

    Raises ValueError if there is only one group.
    """
    if len({clip.group for clip in clips}) < 2:
        raise ValueError(
            "all clips are of one speaker: training needs several, to score each by networks trained on the others"
        )
    order = np.random.default_rng(seed).permutation(1 + max(clip.group for clip in clips))
    for half in (0, 1):
        yield (
            [clip for clip in clips if order[clip.group] % 2 != half],
            [clip for clip in clips if order[clip.group] % 2 == half],
        )
