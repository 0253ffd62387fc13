"""Many pairs at once: what lists mean, and that each pair is made once."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lipforge.pipeline.infer import batch
from lipforge.pipeline.infer.batch import LINES_NAME, RESULTS_NAME, Row, read_pairs, run_pairs
from lipforge.pipeline.infer.request import InferConfig, InferError, InferResult


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "a.wav", "b.mov", "b.mp3", "alone.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def write_list(folder: Path, text: str, name: str = "pairs.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_folder_gives_a_pair_for_each_video_with_a_sound_of_its_name(videos: Path):
    pairs = read_pairs(str(videos), str(videos / "out"), InferConfig())
    assert [(Path(pair.video).name, Path(pair.audio).name, Path(pair.out).name) for pair in pairs] == [
        ("a.mp4", "a.wav", "a.mp4"),
        ("b.mov", "b.mp3", "b.mp4"),
    ]
    assert batch.left_out(str(videos)) == ["alone.mp4"]


def test_a_list_has_paths_relative_to_it_and_settings_of_each_pair(videos: Path):
    place = write_list(
        videos, "video,audio,out,steps,face,lossless\na.mp4,a.wav,x.mkv,7,largest,true\nb.mov,b.mp3,,,,\n"
    )
    first, second = read_pairs(place, str(videos / "out"), InferConfig(sharpen=0.5))
    assert first.video == str(videos / "a.mp4") and Path(first.out).name == "x.mkv"
    assert (first.config.sampling.steps, first.config.face, first.config.lossless) == (7, "largest", True)
    assert second.config == InferConfig(sharpen=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,audio\na.mp4,\n", "entry 2 of the list: no `audio`"),
        ("video,audio,out\na.mp4,a.wav,x.mp4\nb.mov,b.mp3,x.mp4\n", "entries 2 and 3"),
        ("video,audio,out\na.mp4,a.wav,../../x.mp4\n", "outside"),
        ("video,audio,out\na.mp4,a.wav,../b.mov\n", "outside"),
        ("video,audio,face\na.mp4,a.wav,*x\n", "cannot be read"),
        ("video,audio,stepz\na.mp4,a.wav,3\n", "stepz: no such setting"),
        ("video,audio,steps\na.mp4,a.wav,none\n", "steps"),
        ("video,audio\n", "empty"),
        ("video,audio\na.mp4,a.wav,7\n", "by name"),
    ],
)
def test_a_wrong_list_is_refused_with_its_entry(videos: Path, text: str, words: str):
    with pytest.raises(ValueError, match=words):
        read_pairs(write_list(videos, text), str(videos / "out"), InferConfig())


def test_a_folder_without_pairs_says_what_a_pair_is(tmp_path: Path):
    with pytest.raises(ValueError, match=r"talk\.wav"):
        read_pairs(str(tmp_path), str(tmp_path / "out"), InferConfig())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the outputs that were made, by an engine that only writes a file."""
    names: list[str] = []

    def infer(video: str, audio: str, out: str, config: InferConfig) -> InferResult:
        if b"b.mov" in Path(video).read_bytes():
            raise InferError("no face was found")
        assert config.overwrite or not Path(out).exists()
        Path(out).write_bytes(b"made")
        names.append(Path(out).name)
        return InferResult(out, 10, 0.4, 5, model="stub")

    monkeypatch.setattr("lipforge.pipeline.infer.run.infer", infer)
    return names


def run(videos: Path, config: InferConfig | None = None) -> tuple[list[Row], list[str]]:
    seen: list[str] = []
    out = str(videos / "out")
    pairs = read_pairs(str(videos), out, config or InferConfig())
    rows = run_pairs(pairs, out, "local", False, lambda row, done, total: seen.append(f"{done}/{total} {row.status}"))
    return rows, seen


def test_one_bad_pair_does_not_end_the_others_and_each_has_a_row(videos: Path, made: list[str]):
    rows, seen = run(videos)
    assert [(row.status, row.detail, row.num_frames, row.drawn_ratio) for row in rows] == [
        ("made", "", 10, 0.5),
        ("failed", "no face was found", 0, 0.0),
    ]
    assert seen == ["1/2 made", "2/2 failed"]
    table = pq.read_table(videos / "out" / RESULTS_NAME).to_pylist()
    assert [row["status"] for row in table] == ["made", "failed"]


def test_a_rerun_makes_only_what_is_missing_or_changed(videos: Path, made: list[str]):
    run(videos)
    run(videos)
    assert made == ["a.mp4"]
    (videos / "b.mov").write_bytes(b"mended")
    run(videos)
    assert made == ["a.mp4", "b.mp4"]
    run(videos, InferConfig(sharpen=1))
    assert made == ["a.mp4", "b.mp4", "a.mp4", "b.mp4"]
    (videos / "out" / "a.mp4").unlink()
    run(videos, InferConfig(sharpen=1))
    assert made[4:] == ["a.mp4"]


def test_a_row_that_was_cut_off_by_a_kill_counts_as_not_made(videos: Path, made: list[str]):
    run(videos)
    path = videos / "out" / LINES_NAME
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["status"] == "made"
    path.write_text(lines[0][:20])
    (videos / "out" / "a.mp4").unlink()
    run(videos)
    assert made == ["a.mp4", "a.mp4"]


def test_files_that_are_not_there_are_named(videos: Path, made: list[str]):
    place = write_list(videos, "video,audio\nmissing.mp4,a.wav\n")
    out = str(videos / "out")
    (row,) = run_pairs(read_pairs(place, out, InferConfig()), out, "local", False, lambda *_: None)
    assert row.status == "failed" and "missing.mp4: no such file" in row.detail


def test_an_output_that_is_the_input_of_a_pair_is_refused(videos: Path):
    place = write_list(videos, "video,audio,out\na.mp4,a.wav,b.mov\nb.mov,b.mp3,c.mp4\n")
    with pytest.raises(ValueError, match="an input"):
        read_pairs(place, str(videos), InferConfig())


def test_a_pair_is_made_again_when_its_model_or_its_points_change(videos: Path, made: list[str]):
    model = videos / "unet.pt"
    model.write_bytes(b"first")
    run(videos, InferConfig(model=str(model)))
    run(videos, InferConfig(model=str(model)))
    assert made == ["a.mp4"]
    model.write_bytes(b"another")
    run(videos, InferConfig(model=str(model)))
    assert made == ["a.mp4", "a.mp4"]


def test_gpus_are_asked_for_by_device():
    assert batch._num_gpus(InferConfig(device="cuda")) == 1
    assert batch._num_gpus(InferConfig(device="cpu")) == 0
