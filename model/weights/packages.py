"""Files of weights inside packages: installed ones, and those of the package index that pip is set to use."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lipforge.model.weights.model_file import PackageFile


def installed_path(origin: PackageFile, size_bytes: int) -> Path | None:
    """The file where the package is installed, or None: it is not, or that file has another size."""
    try:
        path = Path(str(distribution(origin.requirement.partition("==")[0]).locate_file(origin.member)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() and path.stat().st_size == size_bytes else None


def download_package(origin: PackageFile, folder: Path) -> Path:
    """Path of the package's archive, by this Python's pip, with its index, certificates and passwords.

    folder: empty. pip checks the archive's hash before it does anything else with it. It then asks a source archive for
    its metadata, which runs the setup.py in it, so nothing but a known one runs; wheels have none.
    Raises RuntimeError with pip's reason.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{origin.requirement} --hash=sha256:{origin.sha256}\n", encoding="utf-8")
    arrived = folder / "archive"
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(requirements)]
    done = subprocess.run([*command, "--dest", str(arrived)], capture_output=True, text=True, check=False)
    files = list(arrived.glob("*")) if arrived.is_dir() else []
    if done.returncode or len(files) != 1:
        raise RuntimeError(_reason(done.stderr) or f"pip brought {len(files)} files")
    return files[0]


def _reason(stderr: str) -> str:
    """pip's error in one line: the first that it calls one, else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or [""])[0]
