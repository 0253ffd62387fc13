"""SyncNet v2, the judge of lip-sync that the field quotes: offset and confidence of a clip, with the published numbers.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); network and evaluation as published by the
first author (github joonson/syncnet_python, MIT licence) and used by LatentSync with `syncnet_v2.model`. Two networks
turn five frames of a face and the 0.2 s of sound that go with them into 1024 numbers each; what belongs together lies
close together.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.audio.mfcc import mfcc
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.sync.score import SyncScore
from lipforge.model.threads import one_thread
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

WEIGHTS_FILE = "syncnet_v2.model"
WINDOW = 5
"""Frames that one vector sees."""
INPUT_PX = 224
ROWS_PER_FRAME = 4
"""Rows of MFCC for each frame at 25 fps: 100 rows a second."""
_ROWS = WINDOW * ROWS_PER_FRAME


class SyncNetV2(nn.Module):
    """The two networks. Keys are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer_2d(1, 64, 3, padding=1),
            nn.Identity(),  # the published file counts a pooling of one cell here
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
        """float [B, 3, 5, 224, 224], values 0..255 in BGR order (the published code feeds what OpenCV reads) -> [B, 1024]."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    def embed_clip(self, frames: Tensor) -> Tensor:
        """The vectors of all windows of a video: float [3, T, 224, 224], as for `embed_lips` -> [T - 4, 1024].

        Only the first layer looks along time, so the windows need not be copied out of the video.
        """
        seen = self.netcnnlip(frames[None])  # [1, 512, T - 4, 1, 1]
        return self.netfclip(seen[0, :, :, 0, 0].T)

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
    """The layer, pooled before its ReLU: the same numbers as after it, for less."""
    convolution, norm, relu = layer
    return convolution, norm, pool, relu


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def sync_score(lips: Tensor, sound: Tensor) -> SyncScore:
    """Offset, confidence and distance from two sequences of vectors, one per frame at 25 fps.

    lips: [T, D]; sound: [T + 30, D], with 15 frames of margin on each side; or [T, D], and beyond its ends vectors are
    compared with zeros, as the published evaluation does.

    The curve of SyncScore is minus the mean distance of the pairs at each offset; its best place is the offset (the
    first in the published order, from +15 down, when several are equal), its height the distance; confidence is how far
    it lies from the curve's median.
    """
    if len(sound) == len(lips):
        sound = functional.pad(sound, (0, 0, SYNC_MARGIN_FRAMES, SYNC_MARGIN_FRAMES))
    if len(lips) == 0 or len(sound) != len(lips) + 2 * SYNC_MARGIN_FRAMES:
        raise ValueError(
            f"{len(lips)} vectors of lips need {2 * SYNC_MARGIN_FRAMES} more of sound, or as many, got {len(sound)}"
        )
    shifts = range(2 * SYNC_MARGIN_FRAMES + 1)
    # The sound i - 15 frames after the picture goes with it: the sound is late, a negative offset.
    distances = torch.stack([functional.pairwise_distance(lips, sound[i : i + len(lips)]).mean() for i in shifts])
    best = int(distances.argmin())
    distance = float(distances[best])
    curve = -distances.flip(0).numpy().astype(np.float32)
    return SyncScore(SYNC_MARGIN_FRAMES - best, float(distances.median()) - distance, distance, curve)


_CROPPED_FROM_PX = 256
_CROP_TOP, _CROP_BOTTOM, _CROP_LEFT, _CROP_RIGHT = -5, 321, -36, 291
"""Where SyncNet's crop lies in an aligned picture of 256 px: see `lip_crops`."""
_GREY = 110
"""What the published crop shows beyond the picture."""
_WINDOWS_AT_ONCE = 8  # about 0.1 GB; more is not faster
_SOUNDS_AT_ONCE = 64


class SyncNetScorer:
    """Scores aligned clips on one core; the same clip gets the same numbers on every call.

    As the published evaluation does, it sees windows of 5 frames and 20 rows of MFCC at every frame but the last 5
    (`SyncNetInstance.evaluate` leaves out one more than it must), and the sound as 16-bit numbers. Different are the
    face's place (`lip_crops`), the frames, which are not written as JPEG in between, and the sound beyond the clip's
    ends: here it is the source's own, where the published evaluation has zeros in place of its vectors. At offset 0
    both give the same distance.
    """

    name = "syncnet_v2"

    def __init__(self, content: bytes) -> None:
        """content: the bytes of `syncnet_v2.model`. Raises `weights.ModelFileError` when they are something else."""
        self._network = SyncNetV2()
        load_strict(self._network, read_state_dict(content, WEIGHTS_FILE), WEIGHTS_FILE)
        self._network.netcnnlip.to(memory_format=torch.channels_last_3d)  # 1.5 times as fast on a CPU

    def score(self, frames: np.ndarray, audio: np.ndarray) -> SyncScore:
        """Offset and confidence of one clip; LatentSync keeps confidences from 3 on.

        frames: uint8 [T, R, R, 3] RGB aligned faces at 25 fps, R = 256 or 512, T >= 6. Six frames are one window: from
        there to some seconds, a confidence means little.
        audio: float32 [(T + 30) * 640] mono at 16 kHz in [-1, 1]: the clip's sound with 15 frames of margin on each
        side, zeros where the source has none. Without any sound all offsets are alike, and the confidence is 0.
        Raises ValueError for other shapes, and for sound that is not finite.
        """
        num_windows = len(frames) - WINDOW
        if frames.ndim != 4 or frames.shape[1:] not in _FRAME_SHAPES or frames.dtype != np.uint8 or num_windows < 1:
            raise ValueError(
                f"uint8 frames [T >= {WINDOW + 1}, R, R, 3], R = 256 or 512, expected, got {frames.dtype} {frames.shape}"
            )
        num_samples = (len(frames) + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
        if audio.shape != (num_samples,) or not np.isfinite(audio).all():
            raise ValueError(
                f"audio: {num_samples} finite samples expected for {len(frames)} frames, got {audio.shape}"
            )
        with torch.inference_mode(), one_thread():
            return sync_score(self._lips(frames[:-1]), self._sound(audio, num_windows + 2 * SYNC_MARGIN_FRAMES))

    def _lips(self, frames: np.ndarray) -> Tensor:
        """[T - 4, 1024]: every window once."""
        vectors = []
        for first in range(0, len(frames) - WINDOW + 1, _WINDOWS_AT_ONCE):
            crops = lip_crops(frames[first : first + _WINDOWS_AT_ONCE + WINDOW - 1])
            # [T, H, W, 3] seen as [3, T, H, W] is channels-last in memory, which the kernels like.
            vectors.append(self._network.embed_clip(torch.from_numpy(crops).float().permute(3, 0, 1, 2)))
        return torch.cat(vectors)

    def _sound(self, audio: np.ndarray, num_windows: int) -> Tensor:
        """[num_windows, 1024]: one vector for each frame, from the audio's start on."""
        samples = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
        columns = torch.from_numpy(mfcc(samples)).float().T
        windows = columns.unfold(1, _ROWS, ROWS_PER_FRAME)[:, :num_windows].transpose(0, 1)[:, None]
        return torch.cat([self._network.embed_audio(some.contiguous()) for some in windows.split(_SOUNDS_AT_ONCE)])


_FRAME_SHAPES = ((256, 256, 3), (512, 512, 3))


def lip_crops(frames: np.ndarray) -> np.ndarray:
    """The part of aligned faces that SyncNet's own preparation would cut out: uint8 [T, R, R, 3] RGB -> [T, 224, 224, 3] BGR.

    LatentSync measures sync on its aligned clips, too: SyncNet's `run_pipeline` finds the face in them with S3FD, takes
    the half of the box's longer side as the face's size s, and cuts from the middle of the box s upwards, 1.8 s
    downwards and 1.4 s to each side (crop_scale 0.4); beyond the picture it shows grey (110). Its detector has nothing
    to find out here: the alignment has put every face at the same place. In the aligned square, whose template of 75 x
    100 units makes faces 4/3 wider than they are, a frontal face from forehead to chin and cheek to cheek covers 3 to
    84 % of the height and 4 to 95 % of the width (FaceMesh outlines, medians over 33 clips). So s is 0.455 R, the
    middle of the box lies at (0.5, 0.437) R, and the crop goes from -0.018 R down to 1.255 R and from -0.137 R across
    to 1.137 R (fractions of pixels are cut off, as published). The mouth, at 0.625 R, comes to its middle. The stretch
    is left as it is: LatentSync's threshold was set with it.
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
