"""Labels change without touching media, and the last one counts."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline import maintain
from lipforge.pipeline.cli import app
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.maintain import repack
from lipforge.pipeline.stages.probe import to_record
from tests.made_dataset import MadeSource, add_sources, make_dataset, pack_dataset
from tests.mortal_store import Killed, MortalStore


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


@pytest.fixture
def with_others(store: Store) -> Store:
    """With a copy of `one`, and a file that cannot be read."""
    log = SourceLog(store)
    copy = MadeSource("one").unit.video
    for video in (
        Video(Source("/videos/copy.mp4"), copy.source_id, copy.info),
        Video(Source("/videos/late.mp4"), "f" * 64, None, Reason.UNREADABLE, "it is no video"),
    ):
        log.add(video.source.entry_id, to_record(video))
    log.write()
    pack_dataset(store)
    assert labels(store)["copy"] == labels(store)["late"] == ("und", "none", None, "none")
    return store


def test_sources_without_clips_of_their_own_are_labelled_too(with_others: Store, tmp_path: Path) -> None:
    store, given = with_others, tmp_path / "labels.csv"
    given.write_text("source_uri,language,speaker\n/videos/copy.mp4,hi,bea\n/videos/late.mp4,en,\n")
    before = labels(store)
    code, output = run(store.root, str(given))
    assert code == 0 and "new labels for 2 sources; 3 keep theirs" in output and "not in the dataset" not in output
    wanted = {"copy": ("hi", "relabel", "bea", "relabel"), "late": ("en", "relabel", None, "none")}
    assert labels(store) == {**before, **wanted}
    repack(store.root, ["min_quality=0"], None)
    assert labels(store) == {**before, **wanted}
    assert run(store.root, "--path-template", "{speaker}/")[0] == 0
    assert {found[2:] for found in labels(store).values()} == {("videos", "relabel")}
    assert {name: found[0] for name, found in labels(store).items() if name in wanted} == {"copy": "hi", "late": "en"}


def test_a_file_that_is_repaired_keeps_the_label_that_it_got_before(with_others: Store, tmp_path: Path) -> None:
    store, given = with_others, tmp_path / "labels.csv"
    given.write_text("source_uri,language,speaker\n/videos/late.mp4,hi,bea\n")
    assert run(store.root, str(given))[0] == 0
    add_sources(store, [MadeSource("late", language="en")])
    given.write_text("source_uri,speaker\n/videos/late.mp4,carl\n")
    assert run(store.root, str(given))[0] == 0  # its segment is planned, and no manifest has it yet
    pack_dataset(store)
    assert labels(store)["late"] == ("hi", "relabel", "carl", "relabel")
    files = store.list("ledger/labels")
    pack_dataset(store)
    assert store.list("ledger/labels") == files and labels(store)["late"] == ("hi", "relabel", "carl", "relabel")


def test_a_list_that_contradicts_itself_is_refused(store: Store, tmp_path: Path) -> None:
    before, given = labels(store), tmp_path / "labels.csv"
    given.write_text("source_uri,language\n/videos/one.mp4,en\n/videos/two.mp4,\n/videos/x/../one.mp4,hi\n")
    code, output = run(store.root, str(given))
    words = "entry 3: /videos/one.mp4 is named twice, with the language 'en' and here 'hi'"
    assert code == 2 and words in output and labels(store) == before and store.list("ledger/labels") == []
    given.write_text("source_uri,language,speaker\n/videos/one.mp4,en,\n/videos/one.mp4,eng,\n/videos/one.mp4,,bea\n")
    assert run(store.root, str(given))[0] == 0
    assert labels(store)["one"] == ("en", "relabel", "bea", "relabel")


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_the_same_command_or_the_next_one_ends_right(
    with_others: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    given, before = tmp_path / "labels.csv", labels(with_others)
    given.write_text("source_uri,language\n/videos/one.mp4,hi\n/videos/late.mp4,en\n")
    wanted = {**before, "one": ("hi", "relabel", None, "none"), "late": ("en", "relabel", None, "none")}
    commands: list[Callable[[str], object]] = [
        lambda root: maintain.relabel(root, str(given), None, lambda done, total: None),
        lambda root: repack(root, ["min_quality=0"], None),
    ]
    num_kills = 0
    for lives in range(1, 9):
        for number, command in enumerate(commands):
            root = str(tmp_path / f"{lives}-{number}")
            shutil.copytree(with_others.root, root)
            with monkeypatch.context() as patch:
                patch.setattr(maintain, "Store", lambda root, lives=lives: MortalStore(root, lives, after))
                try:
                    commands[0](root)
                except Killed:
                    num_kills += 1
            is_recorded = bool(Store(root).list("ledger/labels"))
            command(root)
            assert labels(Store(root)) == (wanted if is_recorded or number == 0 else before)
    assert num_kills > 4


def test_an_error_after_the_labels_are_recorded_says_that_they_are(store: Store, tmp_path: Path) -> None:
    given, name = tmp_path / "labels.csv", "ledger/segments/000001.000.parquet"
    given.write_text("source_uri,language\n/videos/one.mp4,hi\n")
    data = store.read(name)
    store.write(name, data[:-50])
    with pytest.raises(DatasetError, match=r"is damaged.*\. The new labels are recorded: after that, the same"):
        maintain.relabel(store.root, str(given), None, lambda done, total: None)
    store.write(name, data)
    repack(store.root, [], None)
    assert labels(store)["one"] == ("hi", "relabel", None, "none")
