"""Networks, their weights and their maths: arrays in, values out.

    from lipforge.model import StableSyncNet, FrozenVae, MediaPipeFaces

Each name is loaded on first use, so `import lipforge.model` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ == "model":  # `python -m model` in a checkout: one module has one name
    import sys

    import lipforge.model

    sys.modules[__name__] = lipforge.model

if TYPE_CHECKING:
    from lipforge.model.audio.language import LanguageIdentifier
    from lipforge.model.audio.speech import SpeechDetector
    from lipforge.model.audio.whisper import WhisperFeatures
    from lipforge.model.denoiser import diffusion, losses
    from lipforge.model.denoiser.lpips import Lpips
    from lipforge.model.denoiser.unet import UNet3D
    from lipforge.model.denoiser.vae import FrozenVae
    from lipforge.model.denoiser.videomae import VideoMae
    from lipforge.model.faces.insight import InsightFaces
    from lipforge.model.faces.mediapipe import MediaPipeFaces
    from lipforge.model.quality.builtin import ImageQuality
    from lipforge.model.quality.hyperiqa import HyperIQA, HyperIQAQuality
    from lipforge.model.sync.builtin import LipSyncScorer
    from lipforge.model.sync.stable_syncnet import StableSyncNet
    from lipforge.model.sync.syncnet_v2 import SyncNetScorer, SyncNetV2

__all__ = [
    "FrozenVae",
    "HyperIQA",
    "HyperIQAQuality",
    "ImageQuality",
    "InsightFaces",
    "LanguageIdentifier",
    "LipSyncScorer",
    "Lpips",
    "MediaPipeFaces",
    "SpeechDetector",
    "StableSyncNet",
    "SyncNetScorer",
    "SyncNetV2",
    "UNet3D",
    "VideoMae",
    "WhisperFeatures",
    "diffusion",
    "losses",
]

_HOMES = {
    "FrozenVae": "denoiser.vae",
    "HyperIQA": "quality.hyperiqa",
    "HyperIQAQuality": "quality.hyperiqa",
    "InsightFaces": "faces.insight",
    "LanguageIdentifier": "audio.language",
    "LipSyncScorer": "sync.builtin",
    "Lpips": "denoiser.lpips",
    "MediaPipeFaces": "faces.mediapipe",
    "ImageQuality": "quality.builtin",
    "SpeechDetector": "audio.speech",
    "StableSyncNet": "sync.stable_syncnet",
    "SyncNetScorer": "sync.syncnet_v2",
    "SyncNetV2": "sync.syncnet_v2",
    "UNet3D": "denoiser.unet",
    "VideoMae": "denoiser.videomae",
    "WhisperFeatures": "audio.whisper",
}
_MODULES = {"diffusion": "denoiser.diffusion", "losses": "denoiser.losses"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lipforge.model.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"lipforge.model.{_MODULES[name]}")
    raise AttributeError(f"module 'lipforge.model' has no attribute {name!r}")
