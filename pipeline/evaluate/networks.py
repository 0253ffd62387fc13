"""The networks that judge, opened where their files are on this machine."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lipforge.model.weights.load import MissingModelError, load, load_file
from lipforge.model.weights.table import list_models
from lipforge.pipeline.evaluate.result import Missing, ModelUsed

if TYPE_CHECKING:
    from lipforge.model.measures.arcface import ArcFace
    from lipforge.model.measures.i3d import I3D
    from lipforge.model.measures.inception import Inception
    from lipforge.model.measures.lpips import LpipsDistance
    from lipforge.model.measures.st_lpips import StLpips
    from lipforge.model.sync.syncnet_v2 import SyncNetScorer

SYNCNET = ("syncnet_v2_confidence", "syncnet_v2_distance", "syncnet_v2_offset_frames")
LPIPS, ST_LPIPS = ("lpips", "lpips_mouth"), ("st_lpips", "st_lpips_mouth")
IDENTITY = ("csim", "identity_drift")
FID, FVD = ("fid",), ("fvd",)


class Networks:
    """Each is None where its file is missing, or where nobody wants its metrics."""

    def __init__(self, device: str, wants: Callable[[Iterable[str]], bool]) -> None:
        """Raises ModelFileError for a damaged file."""
        self.used: list[ModelUsed] = []
        self.missing: list[Missing] = []
        self._device, self._wants = device, wants
        self.syncnet: SyncNetScorer | None = self._open(SYNCNET, "SyncNet v2", "syncnet_v2.model", _syncnet)
        self.lpips: LpipsDistance | None = self._open(LPIPS, "LPIPS 0.1, VGG-16", "lpips_vgg.pth", _lpips)
        self.st_lpips: StLpips | None = self._open(
            ST_LPIPS, "ST-LPIPS, AlexNet", "st_lpips_alex.safetensors", _st_lpips
        )
        self.arcface: ArcFace | None = self._open(IDENTITY, "ArcFace, ResNet-50", "w600k_r50.onnx", _arcface)
        self.inception: Inception | None = self._open(
            FID, "Inception v3 of FID", "pt_inception-2015-12-05-6726825d.pth", _inception
        )
        self.i3d: I3D | None = self._open(FVD, "I3D, Kinetics-400", "i3d-kinetics-400.ckpt", _i3d)

    def _open(self, metrics: tuple[str, ...], title: str, file_name: str, make: Callable[[str], Any]) -> Any:
        if not self._wants(metrics):
            return None
        file = next(file for file in list_models() if file.name == file_name)
        try:
            made = make(self._device)
        except MissingModelError:
            fetch = f"lipforge models fetch {file.bundle}"
            self.missing.append(Missing(list(metrics), f"{file.name} is not on this machine", fetch))
            return None
        self.used.append(ModelUsed(title, file.sha256, file.licence, list(metrics)))
        return made


def _syncnet(device: str) -> "SyncNetScorer":
    from lipforge.model.sync.syncnet_v2 import SyncNetScorer

    return SyncNetScorer(load_file("syncnet_v2.model"))


def _lpips(device: str) -> "LpipsDistance":
    from lipforge.model.measures.lpips import LpipsDistance

    return LpipsDistance(load("lpips"), device)


def _st_lpips(device: str) -> "StLpips":
    from lipforge.model.measures.st_lpips import StLpips

    return StLpips(load("st-lpips"), device)


def _arcface(device: str) -> "ArcFace":
    from lipforge.model.measures.arcface import ArcFace

    return ArcFace(load("arcface"))


def _inception(device: str) -> "Inception":
    from lipforge.model.measures.inception import Inception

    return Inception(load("inception"), device)


def _i3d(device: str) -> "I3D":
    from lipforge.model.measures.i3d import I3D

    return I3D(load("i3d"), device)


def sampled(num_frames: int, most: int) -> np.ndarray:
    """Numbers of at most so many frames, evenly spread."""
    return np.arange(0, num_frames, max(1, -(-num_frames // most)))
