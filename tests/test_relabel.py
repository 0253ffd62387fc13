"""Labels change without touching media, and the last one counts."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.maintain import repack
from tests.made_dataset import MadeSource, make_dataset


@pytest.fixture
def store(tmp_path: Path) -> Store:
    sources = [
        MadeSource("one"),
        MadeSource("two", language="en", speaker="ann"),
        MadeSource("three", [{"quality": 1.0}]),
    ]
    return make_dataset(tmp_path / "d", sources)


def labels(store: Store) -> dict[str, tuple[str, str, str | None, str]]:
    names = ("language", "language_source", "speaker", "speaker_source")
    return {Path(row["source_uri"]).stem: tuple(row[n] for n in names) for row in read_manifest(store.root).to_pylist()}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["relabel", *arguments])
    return result.exit_code, result.output


def media(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for folder in ("shards", "refused") for name in store.list(folder)}


def test_a_list_labels_what_is_in_it(store: Store, tmp_path: Path) -> None:
    before, given = media(store), tmp_path / "labels.csv"
    given.write_text(
        "source_uri,language,speaker\n/videos/one.mp4,hin,bea\n/videos/two.mp4,,carl\n/videos/gone.mp4,en,\n"
    )
    code, output = run(store.root, str(given))
    assert code == 0, output
    assert "2 sources" in output and "/videos/gone.mp4" in output
    after = labels(store)
    assert after == {
        "one": ("hi", "relabel", "bea", "relabel"),
        "two": ("en", "list", "carl", "relabel"),
        "three": ("und", "none", None, "none"),
    }
    assert media(store) == before
    repack(store.root, ["min_quality=0"], None)  # labels outlive packing, and clips that come in take them
    assert labels(store) == after
    given.write_text("source_uri,language\n/videos/one.mp4,ur\n")
    assert run(store.root, str(given))[0] == 0
    assert labels(store)["one"] == ("ur", "relabel", "bea", "relabel")


def test_a_path_template_labels_all(store: Store) -> None:
    assert run(store.root, "--path-template", "{speaker}/")[0] == 0
    assert {found[2:] for found in labels(store).values()} == {("videos", "relabel")}


def test_what_labels_nothing_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    before, generations = labels(store), store.list("manifest")
    given = tmp_path / "labels.csv"
    for text, words in (
        (
            "source_uri,language\n/other/x.mp4,en\n",
            "none of the 3 sources of .* gets a label, for example not /videos/one.mp4",
        ),
        ("source_uri\n/videos/one.mp4\n", "gives no label"),
        ("source_uri,language\n/videos/one.mp4,klingonese\n", "klingonese"),
    ):
        given.write_text(text)
        code, output = run(store.root, str(given))
        assert code == 2
        assert re.search(words, output.replace("\n", " ")), output
    assert run(store.root)[0] == run(store.root, str(given), "--path-template", "{speaker}/")[0] == 2
    assert run(store.root, "--path-template", "{language}/")[0] == 2  # `videos` is no language
    assert run(store.root, "--path-template", "x/")[0] == 2
    assert (labels(store), store.list("manifest")) == (before, generations)
