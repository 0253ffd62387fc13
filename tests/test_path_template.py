"""Labels from folders: what a path template matches, and that nobody is left without labels in silence."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

import lipforge.__main__  # noqa: F401 - joins the commands of both apps
from lipforge.pipeline.cli import app
from lipforge.pipeline.sources.inputs import Found, Labels, find_sources
from lipforge.pipeline.sources.path_template import path_labels

BOTH = "{language}/{speaker}/"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def find(*inputs: Path | str, template: str = BOTH, language: str | None = None) -> Found:
    return find_sources([str(one) for one in inputs], Labels(language, None, template))


def labels(found: Found) -> list[tuple[str, str | None]]:
    return [(source.language, source.speaker) for source in found.sources]


def test_labels_of_a_path() -> None:
    assert path_labels("/data/hi/anna/1.mp4", BOTH) == {"language": "hi", "speaker": "anna"}
    assert path_labels("/data/hi/x/anna/1.mp4", "{language}/*/{speaker}") == {"language": "hi", "speaker": "anna"}
    assert path_labels("/1.mp4", BOTH) == path_labels("/1.mp4", "{speaker}") == {}
    below = {"root": "/data"}
    assert path_labels("/data/hi/anna/1.mp4", BOTH, **below) == {"language": "hi", "speaker": "anna"}
    assert path_labels("/data/misc/1.mp4", BOTH, **below) == {}, "`data` is not a language"


def test_a_bucket_or_host_is_no_folder() -> None:
    assert path_labels("s3://bucket/hi/anna/1.mp4", BOTH) == {"language": "hi", "speaker": "anna"}
    assert path_labels("s3://bucket/anna/1.mp4", BOTH) == path_labels("https://host/1.mp4", "{speaker}") == {}
    assert path_labels("s3://bucket/hi/an#na?/1.mp4", BOTH) == {"language": "hi", "speaker": "an#na?"}


@pytest.mark.parametrize("template", ["{person}/", "", "/", "*/*", "{language}x/", "hi/{speaker}"])
def test_what_is_no_template_is_refused_even_without_files(tmp_path: Path, template: str) -> None:
    with pytest.raises(ValueError, match="path template"):
        find(tmp_path, template=template)


def test_files_that_match_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "hi/anna/1.mp4", "hi/anna/2.mp4", "en/ben/3.mp4")
    assert find(tmp_path).notes == ["path template {language}/{speaker}/ matches 3 of 3 files"]
    touch(tmp_path, "misc/4.mp4", "5.mp4")
    found = find(tmp_path)
    assert found.notes == [
        f"path template {BOTH} matches 3 of 5 files; not, for example, {tmp_path}/5.mp4 has 0 folders below "
        f"{tmp_path}, and the template 2"
    ]
    assert labels(found).count(("und", None)) == 2
    assert find_sources([str(tmp_path)], Labels()).notes == []


def test_a_template_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "hi/1.mp4")
    words = rf"matches none of 1 file: {tmp_path}/hi/1\.mp4 has 1 folder below {tmp_path}, and the template 2\. Folders"
    for language in (None, "fr"):
        with pytest.raises(ValueError, match=words):
            find(tmp_path, language=language)
    with pytest.raises(ValueError, match=r"has 0 folders below .*hi, and the template 1"):
        find(tmp_path / "hi", template="{language}")


def test_a_folder_that_is_no_language_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "hi/anna/1.mp4", "english/ben/2.mp4", "root/carl/3.mp4")
    found = find(tmp_path)
    assert labels(found) == [("und", "ben"), ("hi", "anna"), ("und", "carl")]
    assert found.notes[0].endswith("matches 3 of 3 files")
    assert (
        f"in 2 of 3 files the folder at {{language}} is no language code, for example 'english' of {tmp_path}/"
        in (found.notes[1])
    )
    assert found.notes[1].endswith("Their language is `und`")
    flagged = find(tmp_path, language="fr")
    assert labels(flagged)[0] == ("fr", "ben") and flagged.notes[1].endswith("Their language is fr, from --language")


def test_a_template_that_gives_no_label_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "english/1.mp4", "my videos/2.mp4", "3.mp4")
    with pytest.raises(
        ValueError, match=r"gives none of 3 files a label: the folder at \{language\} is no language code"
    ):
        find(tmp_path, template="{language}")
    assert labels(find(tmp_path, template="{language}", language="fr")) == [("fr", None)] * 3


def test_files_that_a_list_labels_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    path = tmp_path / "list.csv"
    path.write_text("source_uri,language,speaker,start_s,end_s\na/1.mp4,hi,anna,,\n")
    assert find(path).notes == []
    path.write_text("source_uri,language,speaker,start_s,end_s\na/1.mp4,hi,,0,1\na/1.mp4,hi,,1,2\nb/2.mp4,hi,ben,,\n")
    found = find(path, template="{speaker}")
    assert found.notes == ["path template {speaker} matches 1 of 1 file"]
    assert labels(found) == [("hi", "a"), ("hi", "a"), ("hi", "ben")]
    english = find(path, template="{language}/{speaker}")  # the list has the languages: no folder has to be one
    assert len(english.notes) == 1


def test_in_a_list_all_folders_of_a_path_count(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("/hi/anna/1.mp4\n/2.mp4\ns3://bucket/en/ben/3.mp4\ns3://bucket/ben/4.mp4\n")
    found = find(path)
    assert labels(found) == [("und", None), ("hi", "anna"), ("und", None), ("en", "ben")]
    assert "2 of 4 files; not, for example, /2.mp4 has 0 folders in its path, and the template 2" in found.notes[0]
    path.write_text("s3://bucket/ben/4.mp4\n")
    with pytest.raises(ValueError, match="has 1 folder in its path after bucket or host, and the template 2"):
        find(path)


@pytest.fixture
def memory() -> Iterator[str]:
    filesystem = fsspec.filesystem("memory")
    for name in ("raw/hi/anna/1.mp4", "raw/misc/2.mp4"):
        filesystem.pipe_file(f"/labels/{name}", b"")
    yield "memory://labels/raw"
    filesystem.rm("/labels", recursive=True)


def test_below_a_url(memory: str) -> None:
    for url in (memory, f"{memory}/"):
        found = find(url)
        assert labels(found) == [("hi", "anna"), ("und", None)], "`raw` is above the folder that was named"
        assert (
            "matches 1 of 2 files; not, for example, memory:///labels/raw/misc/2.mp4 has 1 folder below"
            in (found.notes[0])
        )
    with pytest.raises(ValueError, match=r"matches none of 1 file: .* has 0 folders below memory:///labels/raw/misc"):
        find(f"{memory}/misc")


def test_names_cannot_disguise_themselves(tmp_path: Path) -> None:
    touch(tmp_path, "hi/anna/1.mp4", "no\nlanguage/ben/2.mp4", "fake\nnote/3.mp4")
    assert all("\n" not in note for note in find(tmp_path).notes)


def test_prepare_refuses_before_anything_is_made(tmp_path: Path, models: dict) -> None:
    touch(tmp_path / "videos", "hi/1.mp4")
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["prepare", str(tmp_path / "videos"), "--out", out, "--path-template", BOTH])
    assert result.exit_code == 2 and "matches none of 1 file" in result.output and not (tmp_path / "out").exists()
