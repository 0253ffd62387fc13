"""Pass one goes by units, whose borders leave no trace: one face stays one, shots go on, and files say the same."""

from pathlib import Path

import numpy as np
import pytest

from lipforge.pipeline.infer import analyse
from lipforge.pipeline.infer.analyse import Looked, unit_spans
from lipforge.pipeline.infer.protocols import Cancelled
from lipforge.pipeline.infer.request import IDENTITY, InferConfig
from lipforge.pipeline.infer.source import open_source
from tests.talking_photo import make_talking_photo

CONFIG = InferConfig(model=IDENTITY)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talking_photo(tmp_path_factory.mktemp("look") / "talk.mp4", 2.4, size_px=256)


def look(video: Path, folder: Path, stopped=lambda: False) -> Looked:
    folder.mkdir(exist_ok=True)
    return open_source(str(video), "x.mkv", CONFIG)._looker().look(folder, lambda done_s: None, stopped)


def test_units_leave_no_trace(talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = look(talk, tmp_path / "whole")
    monkeypatch.setattr(analyse, "UNIT_S", 0.8)
    monkeypatch.setattr(analyse, "SHORTEST_UNIT_S", 0.3)
    monkeypatch.setattr(analyse, "MARGIN_S", 0.3)
    parts = look(talk, tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) == 3
    np.testing.assert_array_equal(parts.times_s, whole.times_s)
    np.testing.assert_array_equal(parts.shots, whole.shots)
    assert [track.number for track in parts.tracks] == [track.number for track in whole.tracks] == [1]
    np.testing.assert_array_equal(parts.tracks[0].rows["frame"], whole.tracks[0].rows["frame"])
    difference = np.abs(parts.tracks[0].rows["points"] - whole.tracks[0].rows["points"])
    assert difference.max() < 1.0 and np.median(difference) < 0.05


def test_a_look_that_was_stopped_goes_on_to_the_same_numbers(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(analyse, "UNIT_S", 1.2)
    monkeypatch.setattr(analyse, "SHORTEST_UNIT_S", 0.3)
    expected = look(talk, tmp_path / "whole")
    asked = iter(range(10_000))
    with pytest.raises(Cancelled):
        look(talk, tmp_path / "parts", lambda: next(asked) > 70)
    assert len(list((tmp_path / "parts").iterdir())) == 1
    found = look(talk, tmp_path / "parts")
    np.testing.assert_array_equal(found.tracks[0].rows, expected.tracks[0].rows)
    assert found.scores == expected.scores and found.scores[1]


def test_a_cut_begins_another_shot_with_faces_of_its_own(hostile_media: dict[str, Path], tmp_path: Path):
    looked = look(hostile_media["hard_cut"], tmp_path / "cut")
    assert looked.shots.max() == 1
    assert len({track.shot_index for track in looked.tracks}) == 2
    for track in looked.tracks:
        assert set(looked.shots[track.rows["frame"]]) == {track.shot_index}


def test_a_short_rest_belongs_to_the_unit_before():
    assert unit_spans(10) == [(0, np.inf)]
    assert unit_spans(140) == [(0, np.inf)]
    assert unit_spans(160) == [(0, 120), (120, np.inf)]
    assert [start for start, _ in unit_spans(3600)] == [120.0 * number for number in range(30)]
