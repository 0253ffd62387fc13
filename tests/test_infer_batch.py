"""A batch makes each pair once, and says of each what became of it."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.infer.batch import Mapper, run_batch
from lipforge.pipeline.infer.pairs import Pair, find_pairs
from lipforge.pipeline.infer.protocols import Cancelled
from lipforge.pipeline.infer.request import InferConfig, InferError, InferResult
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.source_file import StorageError

CONFIG = InferConfig()


class OneByOne:
    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        return map(function, items)


class Scripted:
    """Writes the output, or raises what the name of the video says."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, pair: Pair) -> InferResult:
        name = Path(pair.video).stem
        self.calls.append(name)
        if name.startswith("damaged"):
            raise MediaError(Reason.DECODE_ERROR, "no frame of the video stream can be decoded")
        if name.startswith("full"):
            raise StorageError("the disk is full")
        if name.startswith("stop"):
            raise Cancelled
        Path(pair.out).write_text(f"{pair.config.sampling.steps} steps")
        return InferResult(pair.out, 100, 4.0, 75, model="tiny", model_sha256="ab", wall_s=1.5, notes=["a note"])


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def run(folder: Path, infer: Scripted, out: Path, executor: Mapper | None = None, **settings: Any) -> list[dict]:
    pairs = find_pairs(str(folder), str(out), InferConfig.model_validate(settings))
    run_batch(pairs, infer, executor or OneByOne(), str(out))
    return pq.read_table(out / "results.parquet").to_pylist()


def test_a_folder_gives_videos_the_sounds_of_their_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav", "b/c.mpg", "b/c.m4a", "lonely.mov", "other.wav", "notes.txt")
    pairs = find_pairs(str(folder), str(tmp_path / "out"), CONFIG)
    assert [(os.path.relpath(p.video, folder), p.audio and os.path.relpath(p.audio, folder)) for p in pairs] == [
        ("a.mp4", "a.wav"),
        ("b/c.mpg", "b/c.m4a"),
        ("lonely.mov", None),
    ]
    assert [os.path.relpath(p.out, tmp_path / "out") for p in pairs] == ["a.mp4", "b/c.mp4", "lonely.mov"]


def test_two_sounds_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.mp4", "a.wav", "a.mp3")
    with pytest.raises(InferError, match=r"a\.mp3, a\.wav"):
        find_pairs(str(folder), str(tmp_path / "out"), CONFIG)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_list_names_files_and_settings_of_each_pair(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"video": "a.mp4", "audio": "/x/one.wav", "out": "first.mkv", "steps": 4, "face": "largest"},
        {"video": "sub/a.mp4", "audio": "two.wav", "out": None, "steps": None, "face": None},
    ]
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    first, second = find_pairs(str(path), "/out", InferConfig.model_validate({"sampling": {"steps": 9}}))
    assert (first.video, first.audio, first.out) == (str(tmp_path / "a.mp4"), "/x/one.wav", "/out/first.mkv")
    assert (first.config.sampling.steps, first.config.face) == (4, "largest")
    assert (second.video, second.audio, second.out) == (
        str(tmp_path / "sub/a.mp4"),
        str(tmp_path / "two.wav"),
        "/out/a.mp4",
    )
    assert (second.config.sampling.steps, second.config.face) == (9, "speaker")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,audio\na.mp4,b.wav\nc/a.mp4,d.wav\n", r"written twice: for .*/a\.mp4 and for .*/c/a\.mp4"),
        ("video,audio\na.mp4,\n", "row 1: no audio"),
        ("video,audio,colour\na.mp4,b.wav,red\n", "unknown column 'colour'; known: video, audio, out, model"),
        ("video,audio,steps\na.mp4,b.wav,0\n", r"row 1: config: sampling\.steps"),
        ("video,audio,guidance_band\na.mp4,b.wav,\"5,2\"\n", "0 <= first < second"),
        ("video,audio,out\na.mp4,b.wav,../a.mp4\n", "is not a name inside"),
        ("video,audio,out\na.mp4,b.wav,a.txt\n", r"must end in one of \.mp4"),
        ("video,audio\n", "no pair of a video and a sound"),
        ("video,audio\na.mp4,b.wav,c,d\n", "more cells than the first"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_meant_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InferError, match=words):
        find_pairs(str(path), str(tmp_path / "out"), CONFIG)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InferError, match="expected a folder, or a list"):
        find_pairs(str(tmp_path / "a.mp4"), str(tmp_path), CONFIG)
    with pytest.raises(InferError, match=r"cannot be read: No such file"):
        find_pairs(str(tmp_path / "a.csv"), str(tmp_path), CONFIG)
    (tmp_path / "b.parquet").write_text("no table")
    with pytest.raises(InferError, match="not a Parquet file"):
        find_pairs(str(tmp_path / "b.parquet"), str(tmp_path), CONFIG)


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.mp4", "a.wav")
    (tmp_path / "list.csv").write_text("video,audio\na.mp4,a.wav\n")
    with pytest.raises(InferError, match="is an input"):
        find_pairs(str(folder / "list.csv"), str(folder), CONFIG)


def test_one_bad_pair_does_not_end_a_batch(tmp_path: Path) -> None:
    names = ("a", "damaged", "full", "z")
    folder = folder_of(tmp_path / "in", *(f"{name}{suffix}" for name in names for suffix in (".mp4", ".wav")))
    folder_of(folder, "lonely.mp4")
    infer, out = Scripted(), tmp_path / "out"
    pairs = find_pairs(str(folder), str(out), CONFIG)
    result = run_batch(pairs, infer, OneByOne(), str(out))
    assert (result.made, result.failed, result.skipped, result.made_before, result.exit_code) == (2, 2, 1, 0, 1)
    rows = {Path(row["out"]).stem: row for row in pq.read_table(out / "results.parquet").to_pylist()}
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "a": ("made", None),
        "damaged": ("failed", "decode_error"),
        "full": ("failed", "storage"),
        "lonely": ("skipped", "no_sound"),
        "z": ("made", None),
    }
    made = rows["a"]
    assert (made["frames"], made["seconds"], made["drawn_share"], made["wall_s"]) == (100, 4.0, 0.75, 1.5)
    assert (made["model"], made["model_sha256"], made["detail"]) == ("tiny", "ab", "a note")
    assert rows["damaged"]["detail"] == "no frame of the video stream can be decoded"


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav", "damaged.mp4", "damaged.wav")
    infer, out = Scripted(), tmp_path / "out"
    first = run(folder, infer, out)
    again = run(folder, infer, out)
    assert infer.calls == ["a", "damaged", "damaged"]
    assert [row["status"] for row in first] == [row["status"] for row in again] == ["made", "failed"]
    (out / "a.mp4").unlink()
    run(folder, infer, out)
    assert infer.calls[3:] == ["a", "damaged"]


def test_other_settings_make_it_anew(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav")
    infer, out = Scripted(), tmp_path / "out"
    run(folder, infer, out)
    run(folder, infer, out, sampling={"steps": 3})
    assert (out / "a.mp4").read_text() == "3 steps"


def test_a_batch_that_was_stopped_goes_on_with_one_row_of_each(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav", "stop.mp4", "stop.wav", "z.mp4", "z.wav")
    infer, out = Scripted(), tmp_path / "out"
    with pytest.raises(Cancelled):
        run(folder, infer, out)
    assert [Path(row["out"]).stem for row in pq.read_table(out / "results.parquet").to_pylist()] == ["a"]
    (out / "z.mp4").write_text("written, but the row was lost")
    for name in ("stop.mp4", "stop.wav"):
        (folder / name).unlink()
    rows = run(folder, infer, out)
    assert infer.calls == ["a", "stop", "z"]
    assert [(Path(row["out"]).stem, row["status"]) for row in rows] == [("a", "made"), ("z", "made")]
    assert (out / "z.mp4").read_text() == "20 steps"


def test_what_somebody_else_put_there_is_not_replaced(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav")
    infer, out = Scripted(), folder_of(tmp_path / "out", "a.mp4")
    (row,) = run(folder, infer, out)
    assert (row["status"], row["reason"], infer.calls) == ("failed", "output_exists", [])
    (row,) = run(folder, infer, out, overwrite=True)
    assert (row["status"], infer.calls) == ("made", ["a"])


def test_names_of_any_bytes_get_a_row(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    folder = folder_of(tmp_path / "in", f"{name}.mp4", f"{name}.wav")
    infer, out = Scripted(), tmp_path / "out"
    for _ in range(2):
        (row,) = run(folder, infer, out)
        assert row["status"] == "made" and row["out"].endswith("\\xff\\xfe.mp4")
    assert len(infer.calls) == 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav")
    (tmp_path / "out").touch()
    with pytest.raises(InferError, match=r"cannot be (written|read)"):
        run(folder, Scripted(), tmp_path / "out")


def test_a_damaged_table_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.mp4", "a.wav")
    folder_of(tmp_path / "out", "results.parquet")
    with pytest.raises(InferError, match="Move it away to begin anew"):
        run(folder, Scripted(), tmp_path / "out")
