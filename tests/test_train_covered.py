"""The trainer of the network for covered mouths: what it draws, and that what it writes can be read."""

from pathlib import Path

import numpy as np
import pytest

from lipforge.model.faces.covered import CoveredMouths
from lipforge.train.scorers import covered
from lipforge.train.scorers.covers import COVERED, FREE, Covers
from tests.talking_photo import make_talking_photo

LIPS = np.array([[22, 40], [32, 36], [42, 40], [32, 46]], np.float32)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `extract` makes of one video of 1.2 s, and of a file that is no video."""
    folder = tmp_path_factory.mktemp("covered")
    (folder / "videos").mkdir()
    make_talking_photo(folder / "videos" / "speaker.mp4", 1.2, size_px=384)
    (folder / "videos" / "notes.txt").write_text("no video")
    covered.extract([folder / "videos"], folder / "faces.npz", every=10)
    return folder / "faces.npz"


def test_extract_takes_aligned_faces_and_their_lips(faces: Path) -> None:
    with np.load(faces) as file:
        assert file["faces"].shape == (3, 64, 64, 3)
        assert set(file["videos"]) == {"speaker.mp4"}
        middle = file["lips"].mean(axis=(0, 1))
    assert middle == pytest.approx((32, 40), abs=4)  # where alignment puts the mouth


def test_covers_hide_the_share_of_the_lips_that_they_say() -> None:
    covers = Covers(np.random.default_rng(0), [np.full((64, 64, 3), 90, np.uint8)])
    face = np.full((64, 64, 3), 180, np.float32)
    face[36:46, 22:42] = (120, 40, 50)
    on = [covers.cover(face.copy(), LIPS, beside=False) for _ in range(40)]
    beside = [covers.cover(face.copy(), LIPS, beside=True) for _ in range(40)]
    assert np.mean([share >= COVERED for _, share in on]) > 0.4
    assert np.mean([share <= FREE for _, share in beside]) > 0.6
    hidden = [np.abs(picture - face)[37:45, 28:36].mean() for picture, share in on if share > 0.95]
    shown = [np.abs(picture - face)[37:45, 28:36].mean() for picture, share in beside if share == 0]
    assert np.median(hidden) > 4 * np.median(shown)


def test_half_of_the_examples_are_covered_and_the_same_seed_draws_the_same(faces: Path) -> None:
    patches, labels = covered.Examples(faces, 5).draw(120)
    again, _ = covered.Examples(faces, 5).draw(120)
    assert patches.shape == (120, 40, 40, 3)
    assert 0.3 < labels.mean() < 0.7
    assert np.array_equal(patches, again)


def test_what_is_trained_is_written_and_read(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST", "_MORE", "_CHECKED"):
        monkeypatch.setattr(covered, name, 60)
    covered.train(faces, tmp_path / "cover.safetensors", num_steps=3, seed=1)
    scores = CoveredMouths((tmp_path / "cover.safetensors").read_bytes()).scores(np.zeros((2, 40, 40, 3), np.uint8))
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_folders_without_a_face_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no face of 60 px in the videos of"):
        covered.extract([tmp_path], tmp_path / "faces.npz")
