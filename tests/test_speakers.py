"""Speakers by voice in a dataset: names in the manifest, the user's labels first, and names that stay."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline import run
from lipforge.pipeline.cli import app
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.side_files import SegmentFiles
from lipforge.pipeline.maintain import relabel
from lipforge.pipeline.publish import speakers
from lipforge.pipeline.publish.speakers import VoiceWeights, identify_speakers
from tests.conftest import run_prepare
from tests.made_dataset import MadeSource, add_sources, make_dataset, pack_dataset

PEOPLE = {"ann1": 0, "ann2": 0, "bea1": 1, "bea2": 1, "new": 1}
"""Whose voice a source has, by its name."""


class _Voices:
    """Stands for the encoder: the voice of a clip is that of the person whose turn it is."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = list(order)
        self.heard = 0

    def embed(self, samples: np.ndarray) -> np.ndarray:
        person = self.order[self.heard]
        self.heard += 1
        vector = np.zeros(256, np.float32)
        vector[person * 10 : person * 10 + 10] = 1
        vector += np.random.default_rng(int(1e6 * abs(float(samples[0])))).uniform(0, 0.05, 256).astype(np.float32)
        return vector / np.linalg.norm(vector)


def listen(store: Store, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> _Voices:
    """Identify; names: sources that have not been heard, in the order of the dataset, three clips each."""
    voices = _Voices([PEOPLE[name] for name in names for _ in range(3)])
    monkeypatch.setattr(VoiceWeights, "opened", lambda self: voices)
    identify_speakers(store, VoiceWeights(b""), map)
    pack_dataset(store)
    return voices


def named(store: Store) -> dict[str, tuple[str | None, str]]:
    found = {}
    for row in read_manifest(store.root).to_pylist():
        seen = (row["speaker"], row["speaker_source"])
        assert found.setdefault(Path(row["source_uri"]).stem, seen) == seen
    return found


def test_one_person_in_two_sources_is_one_speaker_and_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ["ann1", "ann2", "bea1", "bea2"]
    store = make_dataset(tmp_path / "d", [MadeSource(name) for name in first])
    shards = {name: store.read(name) for name in store.list("shards")}
    assert listen(store, first, monkeypatch).heard == 12
    before = named(store)
    assert before["ann1"] == before["ann2"] != before["bea1"] == before["bea2"]
    assert {source for _, source in before.values()} == {"voice"}
    assert listen(store, [], monkeypatch).heard == 0 and named(store) == before  # nothing new: nothing is heard
    add_sources(store, [MadeSource("new")])
    pack_dataset(store)
    assert listen(store, ["new"], monkeypatch).heard == 3
    assert named(store) == {**before, "new": before["bea1"]}
    assert shards.items() <= {name: store.read(name) for name in store.list("shards")}.items()


def test_a_label_wins_and_gives_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("ann1", speaker="Ann"), MadeSource("ann2"), MadeSource("bea1")])
    listen(store, ["ann1", "ann2", "bea1"], monkeypatch)
    found = named(store)
    assert found["ann1"] == ("Ann", "list") and found["ann2"] == ("Ann", "voice")
    assert found["bea1"][0] not in (None, "Ann")


def test_a_label_that_comes_later_gives_its_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("ann1"), MadeSource("ann2"), MadeSource("bea1")])
    listen(store, ["ann1", "ann2", "bea1"], monkeypatch)
    bea = named(store)["bea1"]
    (tmp_path / "labels.csv").write_text("source_uri,speaker\n/videos/ann1.mp4,Ann\n")
    relabel(store.root, str(tmp_path / "labels.csv"), None, lambda done, total: None)
    assert listen(store, [], monkeypatch).heard == 0
    assert named(store) == {"ann1": ("Ann", "relabel"), "ann2": ("Ann", "voice"), "bea1": bea}


def test_names_that_were_lost_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("ann1"), MadeSource("bea1")])
    listen(store, ["ann1", "bea1"], monkeypatch)
    before = named(store)
    store.delete_folder("ledger/voices")
    listen(store, [], monkeypatch)
    assert named(store) == before


def test_stopped_before_the_names_are_final_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, stopped = (make_dataset(tmp_path / n, [MadeSource("ann1"), MadeSource("bea1")]) for n in ("a", "b"))
    listen(straight, ["ann1", "bea1"], monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(speakers, "_write_known", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            listen(stopped, ["ann1", "bea1"], monkeypatch)
    assert listen(stopped, [], monkeypatch).heard == 0
    assert named(stopped) == named(straight)
    tables = [SegmentFiles(store, "voices").read(1) for store in (straight, stopped)]
    assert tables[0] is not None and tables[0].equals(tables[1])
    known = [store.read("ledger/known_voices/000001.parquet") for store in (straight, stopped)]
    assert known[0] == known[1]


def test_on_the_command_line_without_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    store = make_dataset(tmp_path / "d", [MadeSource("ann1")])
    result = CliRunner().invoke(app, ["identify-speakers", store.root, "--executor", "local"])
    assert result.exit_code == 1 and "lipforge models fetch voice" in result.output
    assert named(store) == {"ann1": (None, "none")}


def test_prepare_names_speakers_and_goes_on_without_the_weights(
    models: dict, talking_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"run": {"executor": "local"}, "encode": {"preset": "ultrafast"}, "speaker": {"by_voice": True}}
    config = PrepareConfig.model_validate(tree)
    with monkeypatch.context() as patch:
        patch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
        summary = run_prepare([str(talking_clip)], tmp_path / "d", config)
        assert "speakers are not told by voice" in summary.notes[0] and "fetch voice" in summary.notes[0]
    store = Store(str(tmp_path / "d"))
    assert set(named(store).values()) == {(None, "none")}
    monkeypatch.setattr(run, "open_voice_weights", lambda: VoiceWeights(b""))
    monkeypatch.setattr(VoiceWeights, "opened", lambda self: _Voices([0] * 20))
    assert run_prepare([str(talking_clip)], tmp_path / "d", config).notes == []
    assert {source for _, source in named(store).values()} == {"voice"}
