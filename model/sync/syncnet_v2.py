"""SyncNet v2, the lip-sync scorer that papers quote: offset and confidence of a clip, with the published numbers.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); network and evaluation as published by the
first author (github joonson/syncnet_python, MIT licence) and used by LatentSync with `syncnet_v2.model`. Two networks
embed five frames of a face and their 0.2 s of audio as vectors of 1024, which are close where the two match.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.audio.mfcc import mfcc
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.sync.drift import drift_frames
from lipforge.model.sync.score import SyncScore
from lipforge.model.threads import full_precision, one_thread
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

WEIGHTS_FILE = "syncnet_v2.model"
WINDOW = 5
"""Frames of one vector."""
INPUT_PX = 224
ROWS_PER_FRAME = 4
"""Rows of MFCC per frame at 25 fps: 100 rows a second."""
_ROWS = WINDOW * ROWS_PER_FRAME


class SyncNetV2(nn.Module):
    """The two networks, with the keys of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer_2d(1, 64, 3, padding=1),
            nn.Identity(),  # a pooling of one cell in the published file
            *_pooled(_layer_2d(64, 192, 3, padding=1), nn.MaxPool2d(3, stride=(1, 2))),
            *_layer_2d(192, 384, 3, padding=1),
            *_layer_2d(384, 256, 3, padding=1),
            *_pooled(_layer_2d(256, 256, 3, padding=1), nn.MaxPool2d(3, stride=2)),
            *_layer_2d(256, 512, (5, 4)),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_pooled(
                _layer_3d(3, 96, (WINDOW, 7, 7), stride=(1, 2, 2)),
                nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            ),
            *_pooled(
                _layer_3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)),
                nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            ),
            *_layer_3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_layer_3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_pooled(
                _layer_3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
                nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            ),
            *_layer_3d(256, 512, (1, 6, 6)),
        )

    def embed_lips(self, frames: Tensor) -> Tensor:
        """float [B, 3, 5, 224, 224], 0..255 in BGR order, as the published code reads with OpenCV -> [B, 1024]."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    def embed_clip(self, frames: Tensor) -> Tensor:
        """Vectors of all windows of a video: float [3, T, 224, 224], as for `embed_lips` -> [T - 4, 1024].

        Only the first layer spans time, so windows need not be copied out of the video.
        """
        features = self.netcnnlip(frames[None])  # [1, 512, T - 4, 1, 1]
        return self.netfclip(features[0, :, :, 0, 0].T)

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """float [B, 1, 13, 20]: twenty columns of `mfcc`, 0.2 s -> [B, 1024]."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


_Layer = tuple[nn.Module, nn.Module, nn.Module]


def _layer_2d(inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int = 0) -> _Layer:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()


def _layer_3d(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> _Layer:
    return nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.BatchNorm3d(outputs), nn.ReLU()


def _pooled(layer: _Layer, pool: nn.Module) -> tuple[nn.Module, ...]:
    """The layer, pooled before its ReLU: the same numbers as after it, but cheaper."""
    convolution, norm, relu = layer
    return convolution, norm, pool, relu


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def sync_score(lips: Tensor, audio: Tensor) -> SyncScore:
    """Offset, confidence and distance from two sequences of vectors, one per frame at 25 fps.

    lips: [T, D]; audio: [T + 30, D], with 15 frames of margin on each side; or [T, D], padded with zeros at both ends
    as in the published evaluation.

    The curve of SyncScore is minus the mean distance of the pairs at each offset. Its maximum gives the offset (of
    equal ones the first in the published order, from +15 down) and the distance; confidence is maximum minus median.
    """
    if len(audio) == len(lips):
        audio = functional.pad(audio, (0, 0, SYNC_MARGIN_FRAMES, SYNC_MARGIN_FRAMES))
    if len(lips) == 0 or len(audio) != len(lips) + 2 * SYNC_MARGIN_FRAMES:
        raise ValueError(
            f"{len(lips)} vectors of lips need {2 * SYNC_MARGIN_FRAMES} more of audio, or as many, got {len(audio)}"
        )
    shifts = range(2 * SYNC_MARGIN_FRAMES + 1)
    # At index i the audio comes i - 15 frames after its frame: late audio is a negative offset.
    by_frame = [functional.pairwise_distance(lips, audio[i : i + len(lips)]) for i in shifts]
    distances = torch.stack([of_shift.mean() for of_shift in by_frame])
    best = int(distances.argmin())
    distance = float(distances[best])
    curve = -distances.flip(0).numpy().astype(np.float32)
    similar = -torch.stack(by_frame, dim=1).flip(1).numpy()
    drift = drift_frames(similar, len(lips) + WINDOW, _is_match)
    return SyncScore(SYNC_MARGIN_FRAMES - best, float(distances.median()) - distance, distance, curve, drift)


def _is_match(similar: np.ndarray) -> bool:
    curve = similar.mean(axis=0)
    return float(curve.max() - np.median(curve)) >= _LEAST_CONFIDENCE


_LEAST_CONFIDENCE = 3.0
"""LatentSync keeps clips from here."""


_CROPPED_FROM_PX = 256
_CROP_TOP, _CROP_BOTTOM, _CROP_LEFT, _CROP_RIGHT = -5, 321, -36, 291
"""SyncNet's crop in an aligned image of 256 px: see `lip_crops`."""
_GREY = 110
"""Fill of the published crop beyond the image."""
_LIP_BATCH = 8  # about 0.1 GB; more is not faster on a core
_LIP_BATCH_ON_GPU = 64
_AUDIO_BATCH = 64


class SyncNetScorer:
    """Scores aligned clips, on one core or a GPU; there, the same clip always gets the same numbers.

    As in the published evaluation, there is a window of 5 frames and 20 rows of MFCC at every frame but the last 5
    (`SyncNetInstance.evaluate` drops one more than it must), and audio is 16-bit. Three things differ: the crop
    (`lip_crops`); frames are not written as JPEG in between; audio continues beyond the clip's ends, where the
    published evaluation has zero vectors. At offset 0 both give the same distance.
    """

    name = "syncnet_v2"

    def __init__(self, content: bytes, device: str = "cpu") -> None:
        """content: the bytes of `syncnet_v2.model`. device: of torch. A GPU's numbers differ in the last digits.

        Raises ModelFileError if content is not that file.
        """
        self._network = SyncNetV2()
        load_strict(self._network, read_state_dict(content, WEIGHTS_FILE), WEIGHTS_FILE)
        self._device = torch.device(device)
        self._lip_batch = _LIP_BATCH if self._device.type == "cpu" else _LIP_BATCH_ON_GPU
        self._network.to(self._device)
        self._network.netcnnlip.to(memory_format=torch.channels_last_3d)  # 1.5 times as fast on a CPU

    def score(self, frames: np.ndarray, audio: np.ndarray) -> SyncScore:
        """Offset and confidence of one clip. LatentSync keeps clips of confidence 3 and more.

        frames: uint8 [T, R, R, 3] RGB aligned faces at 25 fps, R = 256 or 512, T >= 6 (one window). Below some
        seconds the confidence means little.
        audio: float32 [(T + 30) * 640] mono at 16 kHz in [-1, 1]: the clip's audio with 15 frames of margin on each
        side, zeros where the source has none. In silence all offsets are alike, and the confidence is 0.
        Raises ValueError for other shapes, and for audio that is not finite.
        """
        if (
            frames.ndim != 4
            or frames.shape[1:] not in _FRAME_SHAPES
            or frames.dtype != np.uint8
            or len(frames) <= WINDOW
        ):
            raise ValueError(
                f"expected uint8 frames [T >= {WINDOW + 1}, R, R, 3], R = 256 or 512, got {frames.dtype} {frames.shape}"
            )
        return self._score(frames, audio, lip_crops)

    def score_crops(self, crops: np.ndarray, audio: np.ndarray) -> SyncScore:
        """The same, of crops that were cut as SyncNet's own preparation does: uint8 [T, 224, 224, 3] RGB."""
        if crops.shape[1:] != (INPUT_PX, INPUT_PX, 3) or crops.dtype != np.uint8 or len(crops) <= WINDOW:
            raise ValueError(f"expected uint8 crops [T > {WINDOW}, 224, 224, 3], got {crops.dtype} {crops.shape}")
        return self._score(crops, audio, lambda some: some[..., ::-1])

    def _score(self, frames: np.ndarray, audio: np.ndarray, to_input: Callable[[np.ndarray], np.ndarray]) -> SyncScore:
        num_samples = (len(frames) + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
        if audio.shape != (num_samples,) or not np.isfinite(audio).all():
            raise ValueError(
                f"audio: expected {num_samples} finite samples for {len(frames)} frames, got {audio.shape}"
            )
        with torch.inference_mode(), one_thread(), full_precision():
            lips = self._embed_lips(frames[:-1], to_input)
            return sync_score(lips, self._embed_audio(audio, len(frames) - WINDOW + 2 * SYNC_MARGIN_FRAMES))

    def _embed_lips(self, frames: np.ndarray, to_input: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """[T - 4, 1024]: one vector per window."""
        vectors = []
        for first in range(0, len(frames) - WINDOW + 1, self._lip_batch):
            crops = to_input(frames[first : first + self._lip_batch + WINDOW - 1])
            # [T, H, W, 3] viewed as [3, T, H, W] is channels-last in memory, which is faster.
            images = torch.from_numpy(np.ascontiguousarray(crops)).to(self._device)
            vectors.append(self._network.embed_clip(images.float().permute(3, 0, 1, 2)))
        return torch.cat(vectors).cpu()

    def _embed_audio(self, audio: np.ndarray, num_windows: int) -> Tensor:
        """[num_windows, 1024]: one vector per frame, from the start of the audio."""
        samples = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
        columns = torch.from_numpy(mfcc(samples)).float().T.to(self._device)
        windows = columns.unfold(1, _ROWS, ROWS_PER_FRAME)[:, :num_windows].transpose(0, 1)[:, None]
        return torch.cat([self._network.embed_audio(some.contiguous()) for some in windows.split(_AUDIO_BATCH)]).cpu()


_FRAME_SHAPES = ((256, 256, 3), (512, 512, 3))


def lip_crops(frames: np.ndarray) -> np.ndarray:
    """Crop aligned faces as SyncNet's own preparation would: uint8 [T, R, R, 3] RGB -> [T, 224, 224, 3] BGR.

    LatentSync also measures sync on aligned clips. SyncNet's `run_pipeline` detects the face in them with S3FD, takes
    half of the box's longer side as the face's size s, and crops from the box's centre s up, 1.8 s down and 1.4 s to
    each side (crop_scale 0.4), with grey (110) beyond the image. No detector is needed here, as alignment puts every
    face at the same place. In the aligned square, whose template of 75 x 100 units makes faces 4/3 wider than they are,
    a frontal face from forehead to chin and cheek to cheek covers 3 to 84 % of the height and 4 to 95 % of the width
    (FaceMesh outlines, medians over 33 clips). So s is 0.455 R, the centre is (0.5, 0.437) R, and the crop spans
    -0.018 R to 1.255 R down and -0.137 R to 1.137 R across (fractions of pixels are truncated, as published). The
    mouth, at 0.625 R, lands in its middle. The aspect ratio stays stretched: LatentSync's threshold was set that way.
    """
    if frames.shape[1] != _CROPPED_FROM_PX:
        size = (_CROPPED_FROM_PX, _CROPPED_FROM_PX)
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    padded = np.pad(
        frames[..., ::-1],
        (
            (0, 0),
            (-_CROP_TOP, _CROP_BOTTOM - _CROPPED_FROM_PX),
            (-_CROP_LEFT, _CROP_RIGHT - _CROPPED_FROM_PX),
            (0, 0),
        ),
        constant_values=_GREY,
    )
    return np.stack([cv2.resize(crop, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_LINEAR) for crop in padded])
