"""Finding sources: folders, globs, lists, labels, and the messages for mistakes."""

import csv
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipforge.pipeline.clip import Source
from lipforge.pipeline.sources.inputs import Labels, find_sources


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(*inputs: Path | str, labels: Labels | None = None, exclude: Path | None = None) -> list[Source]:
    sources, unreadable, _ = find_sources([str(text) for text in inputs], labels or Labels(), exclude)
    assert not unreadable
    return sources


def uris(*inputs: Path | str, **how) -> list[str]:
    return [source.uri for source in found(*inputs, **how)]


# --- folders --------------------------------------------------------------------------------------


def test_folders_are_searched_for_videos_of_any_container_in_a_fixed_order(tmp_path: Path) -> None:
    wanted = [
        tmp_path / name for name in ("a/1.mp4", "a/b/2.MKV", "3.webm", "x.mov", "y.avi", "z.mpg", "q.ts", "w.wmv")
    ]
    touch(*wanted, tmp_path / "notes.txt", tmp_path / "a/list.csv", tmp_path / "sound.wav", tmp_path / "photo.jpg")
    assert uris(tmp_path) == sorted(str(path) for path in wanted)


def test_lists_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    video, one, two = tmp_path / "a.mp4", tmp_path / "one.csv", tmp_path / "two.csv"
    video.touch()
    one.write_text("source_uri,language,speaker\na.mp4,en,\na.mp4,en,ann\n")
    two.write_text("source_uri,speaker\na.mp4,bea\n")
    ((source,), _, _) = find_sources([str(tmp_path), str(one)], Labels("hi", "anybody"))
    assert (source.language, source.language_source, source.speaker) == ("en", "list", "ann")
    with pytest.raises(ValueError, match=rf"two\.csv: {video} is named twice, with the speaker 'ann' and here 'bea'"):
        find_sources([str(one), str(two)], Labels())
    one.write_text("source_uri,language\na.mp4,en\na.mp4,hi\n")
    with pytest.raises(ValueError, match=rf"one\.csv, entry 2: {video} is named twice, with the language 'en' and"):
        find_sources([str(one)], Labels())


def test_the_same_file_named_twice_is_one_source(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    assert uris(tmp_path, tmp_path / "a.mp4", f"{tmp_path}/*.mp4") == [str(tmp_path / "a.mp4")]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "elsewhere/b.mp4")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/linked.mp4").symlink_to(tmp_path / "elsewhere/b.mp4")
    got = uris(tmp_path / "in")
    assert got == [str(tmp_path / "in" / name) for name in ("a.mp4", "linked.mp4", "other/b.mp4")]


def test_the_dataset_inside_the_input_folder_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "out/parts/b.mp4", tmp_path / "out2/c.mp4")
    assert uris(tmp_path, exclude=tmp_path / "out") == [str(tmp_path / "a.mp4"), str(tmp_path / "out2/c.mp4")]
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert uris(tmp_path, exclude=tmp_path / "out") == [str(tmp_path / "a.mp4"), str(tmp_path / "out2/c.mp4")]


def test_what_a_report_plays_is_no_source(tmp_path: Path) -> None:
    touch(tmp_path / "old/report.html", tmp_path / "old/report_media/a.mp4", tmp_path / "report_media/b.mp4")
    assert uris(tmp_path) == [str(tmp_path / "report_media/b.mp4")]
    memory = fsspec.filesystem("memory")
    for name in ("old/report.html", "old/report_media/a.mp4", "report_media/b.mp4"):
        memory.pipe(f"/of-a-report/{name}", b"")
    assert uris("memory://of-a-report") == ["memory:///of-a-report/report_media/b.mp4"]


def test_a_dataset_in_the_input_folder_itself_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(ValueError, match="also the output folder"):
            found(folder, exclude=tmp_path / "in")
    assert uris(f"{tmp_path}/*", exclude=tmp_path / "in") == []


def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "locked/b.mp4")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):  # simulated, because root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    sources, unreadable, _ = find_sources([str(tmp_path)], Labels())
    assert [source.uri for source in sources] == [str(tmp_path / "a.mp4")]
    assert [(folder.uri, folder.detail) for folder in unreadable] == [(str(tmp_path / "locked"), "Permission denied")]


def test_any_name_is_found_and_none_is_interpreted(tmp_path: Path) -> None:
    names = [
        "-a.mp4",
        "$(touch x).mp4",
        "new\nline.mp4",
        "[1].mp4",
        "*.mp4",
        "\N{GRINNING FACE}.mp4",
        "'\".mp4",
        " .mp4",
    ]
    names.append(os.fsdecode(b"\xff.mp4"))
    touch(*(tmp_path / name for name in names))
    assert uris(tmp_path) == sorted((str(tmp_path / name) for name in names), key=os.fsencode)
    for name in names:
        assert uris(tmp_path / name) == [str(tmp_path / name)]


# --- single inputs, globs, URLs -------------------------------------------------------------------


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "film", tmp_path / "film.bin")
    assert uris(tmp_path / "film", tmp_path / "film.bin") == [str(tmp_path / "film"), str(tmp_path / "film.bin")]


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "-a.mp4")
    monkeypatch.chdir(tmp_path)
    assert uris("-a.mp4") == uris(".") == [str(tmp_path / "-a.mp4")]


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path / "a/1.mp4", tmp_path / "b/1.mp4", tmp_path / "b/2.mkv")
    assert uris(f"{tmp_path}/*/1.mp4") == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b/1.mp4")]
    assert uris(f"{tmp_path}/**/*.mkv") == [str(tmp_path / "b/2.mkv")]
    assert uris(f"{tmp_path}/[b]") == [str(tmp_path / "b/1.mp4"), str(tmp_path / "b/2.mkv")]


@pytest.mark.parametrize("text", ["nothing.mp4", "no/such/folder", "none*.mp4", "memory://no/such/*.mp4"])
def test_an_input_that_does_not_exist_is_an_error_that_names_it(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=text.replace("*", r"\*")):
        found(text)


def test_urls_of_files_folders_globs_and_lists() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("/raw/a.mp4", "/raw/b/c.mkv", "/raw/notes.md"):
        memory.pipe_file(name, b"")
    memory.pipe_file("/raw/list.txt", b"a.mp4\nb/c.mkv\n")
    assert uris("memory://raw") == ["memory:///raw/a.mp4", "memory:///raw/b/c.mkv"]
    assert uris("memory://raw/*.mp4") == ["memory:///raw/a.mp4"]
    assert uris("memory://raw/a.mp4") == ["memory://raw/a.mp4"]
    assert uris("memory://raw/list.txt") == ["memory://raw/a.mp4", "memory://raw/b/c.mkv"]


# --- lists ----------------------------------------------------------------------------------------

ROWS = [
    {"source_uri": "a.mp4", "language": "zh", "speaker": "anna", "start_s": 1.5, "end_s": 9.0},
    {"source_uri": "/elsewhere/b c.mp4", "language": None, "speaker": None, "start_s": None, "end_s": None},
    {"source_uri": "s3://bucket/c.mp4", "language": "pt-BR", "speaker": "7", "start_s": None, "end_s": 4.0},
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_lists_give_labels_and_spans(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in ROWS) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    got = {source.uri: source for source in found(path)}
    assert got[str(tmp_path / "a.mp4")] == Source(str(tmp_path / "a.mp4"), "zh", "list", "anna", "list", 1.5, 9.0)
    assert got["/elsewhere/b c.mp4"] == Source("/elsewhere/b c.mp4")
    assert got["s3://bucket/c.mp4"] == Source("s3://bucket/c.mp4", "pt-BR", "list", "7", "list", None, 4.0)


def test_text_lists_may_have_comments_and_names_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"# a comment\r\na.mp4\r\n\n  b.mp4\n\xff.mp4\nline\xe2\x80\xa8separator.mp4\n")
    wanted = ["a.mp4", "b.mp4", os.fsdecode(b"\xff.mp4"), "line\u2028separator.mp4"]
    assert sorted(uris(path)) == sorted(str(tmp_path / name) for name in wanted)


def test_a_name_with_a_line_break_survives_csv_and_json(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('source_uri,language\n"new\nline.mp4",en\n"para\u2029.mp4",en\n')
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"source_uri": "new\nline.mp4"}) + '\n{"source_uri": "para\u2029.mp4"}\n'
    )
    wanted = [str(tmp_path / "new\nline.mp4"), str(tmp_path / "para\u2029.mp4")]
    assert uris(tmp_path / "list.csv") == wanted
    assert uris(tmp_path / "list.jsonl") == wanted


def test_spans_of_one_file_are_several_sources(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("source_uri,start_s,end_s\na.mp4,0,10\na.mp4,10,20\na.mp4,0,10\n")
    assert [(source.start_s, source.end_s) for source in found(tmp_path / "list.csv")] == [(0, 10), (10, 20)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "path\na.mp4\n", "unknown column 'path'"),
        ("a.csv", "source_uri,language\n,en\n", "no source_uri"),
        ("a.csv", "source_uri,language\na.mp4,english language\n", "not a language code"),
        ("a.csv", "source_uri,language\na.mp4,../x\n", "not a language code"),
        ("a.csv", "source_uri\na.mp4,extra\n", "entry 1"),
        ("a.csv", "source_uri,start_s\na.mp4,soon\n", "not a time"),
        ("a.csv", "source_uri,start_s\na.mp4,-1\n", "not a time"),
        ("a.csv", "source_uri,end_s\na.mp4,inf\n", "not a time"),
        ("a.csv", "source_uri,start_s,end_s\na.mp4,5,5\n", "not after"),
        ("a.jsonl", '{"source_uri": "a.mp4"', "a.jsonl"),
        ("a.jsonl", '["a.mp4"]', "expected an object"),
        ("a.jsonl", '{"source_uri": 5}', "no source_uri"),
        ("a.jsonl", '{"source_uri": "a.mp4", "language": 5}', "not a language code"),
        (
            "a.csv",
            "source_uri,language\na.mp4,en\nb.mp4,english\n",
            r"a.csv, entry 2: 'english' is .*; did you mean en\?",
        ),
        ("a.csv", "source_uri,language\na.mp4,jp\n", r"'jp' is .*; did you mean ja\?"),
        ("a.parquet", "no parquet", "a.parquet"),
    ],
)
def test_an_invalid_list_is_an_error_that_names_the_place(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        found(tmp_path / name)


# --- labels ---------------------------------------------------------------------------------------


def test_labels_come_from_list_then_path_then_flag(tmp_path: Path) -> None:
    touch(tmp_path / "hi/anna/1.mp4", tmp_path / "hi/anna/2.mp4")
    (tmp_path / "list.csv").write_text("source_uri,language,speaker\nhi/anna/1.mp4,en,\n")
    labels = Labels(language="fr", speaker="nobody", path_template="{language}/{speaker}/")
    got = {source.uri[-5:]: source for source in found(tmp_path / "list.csv", tmp_path, labels=labels)}
    one, two = got["1.mp4"], got["2.mp4"]
    assert (one.language, one.language_source, one.speaker, one.speaker_source) == ("en", "list", "anna", "path")
    assert (two.language, two.language_source, two.speaker, two.speaker_source) == ("hi", "path", "anna", "path")
    (plain,) = found(tmp_path / "hi/anna/1.mp4", labels=Labels(language="fr"))
    assert (plain.language, plain.language_source, plain.speaker) == ("fr", "flag", None)
    (none,) = found(tmp_path / "hi/anna/1.mp4")
    assert (none.language, none.language_source) == ("und", "none")


@pytest.mark.parametrize(("label", "tag"), [("zh_CN", "zh-CN"), ("eng", "en"), ("iw", "he"), ("EN-us", "en-US")])
def test_every_spelling_of_a_language_is_one_from_list_path_and_flag(tmp_path: Path, label: str, tag: str) -> None:
    touch(tmp_path / label / "a.mp4", tmp_path / "list/b.mp4")
    (tmp_path / "list/list.csv").write_text(f"source_uri,language\nb.mp4,{label}\n")
    (path,) = found(tmp_path / label / "a.mp4", labels=Labels(path_template="{language}"))
    (listed,) = found(tmp_path / "list/list.csv")
    (flag,) = found(tmp_path / label, labels=Labels(language=label))
    got = [(source.language, source.language_source) for source in (path, listed, flag)]
    assert got == [(tag, "path"), (tag, "list"), (tag, "flag")]


def test_empty_cells_of_a_table_of_pandas_are_no_labels(tmp_path: Path) -> None:
    nothing = {"source_uri": ["a.mp4"], "language": [float("nan")], "speaker": [float("nan")]}
    pq.write_table(pa.table(nothing), tmp_path / "list.parquet")
    assert found(tmp_path / "list.parquet") == [Source(str(tmp_path / "a.mp4"))]


def test_a_folder_that_is_not_a_language_is_ignored_and_a_bad_flag_is_refused(tmp_path: Path) -> None:
    touch(*(tmp_path / name / "1.mp4" for name in ("my videos", "english", "root", "xx", "en-USAA")))
    for source in found(tmp_path, labels=Labels(language="fr", path_template="{language}")):
        assert (source.language, source.language_source) == ("fr", "flag")
    for flag in ("a/b", "english", ""):
        with pytest.raises(ValueError, match=f"--language: {flag!r} is not a language code"):
            found(tmp_path, labels=Labels(language=flag))
