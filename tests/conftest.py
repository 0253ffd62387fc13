"""What several tests share, made once per session: model files, hostile media, and datasets prepared from them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import weights
from tests import media


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """Model files of the built-in profile, by name."""
    try:
        return dict(weights.load("builtin"))
    except weights.MissingModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hostile_media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind of tests/media.py, in one folder. Nobody may change them."""
    paths = media.make_all(tmp_path_factory.mktemp("media"))
    for path in paths.values():
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return paths


@pytest.fixture(scope="session")
def talking_clip(hostile_media: dict[str, Path]) -> Path:
    """6.4 s of a person who talks, in sync."""
    return hostile_media["base"]


@pytest.fixture
def in_folder(tmp_path: Path) -> Iterator[Path]:
    """A fresh folder that is the current one during the test."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
