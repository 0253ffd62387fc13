"""`lipforge infer` as people type it: what it says, and how it exits."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lipforge.pipeline.infer.cli import app
from tests.talking_photo import make_talking_photo


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talking_photo(tmp_path_factory.mktemp("cli") / "talk.mp4", 0.6, size_px=256)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_result_is_described_and_a_preview_comes_first(talk: Path, tmp_path: Path):
    out = tmp_path / "new.mp4"
    result = run("--video", talk, "--audio", talk, "--out", out, "--model", "identity", "--preview")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == f"preview: {tmp_path / 'new.preview.mp4'}"
    assert "15 frames, 100% with a new mouth" in lines[1]
    assert out.exists() and (tmp_path / "new.preview.mp4").exists()


def test_faces_are_listed_with_their_numbers(talk: Path, tmp_path: Path):
    result = run("--video", talk, "--out", tmp_path / "new.mp4", "--list-faces")
    assert result.exit_code == 0
    assert result.output.startswith("track:1  0.0 to 0.6 s")
    assert (tmp_path / "new.faces.jpg").exists() and not (tmp_path / "new.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--audio", "TALK", "--out", "OUT"], 2, "--video"),
        (["--video", "TALK", "--out", "OUT"], 2, "--audio"),
        (["--video", "TALK", "--audio", "TALK"], 2, "--out"),
        (["--video", "TALK", "--audio", "TALK", "--out", "OUT", "--solver", "magic"], 2, "ddim"),
        (["--video", "TALK", "--audio", "TALK", "--out", "OUT", "--guidance-band", "9", "3"], 2, "guidance_band"),
        (["--video", "TALK", "--audio", "TALK", "--out", "OUT", "--face", "tallest"], 2, "speaker, largest"),
        (["--video", "TALK", "--audio", "TALK", "--out", "OUT", "--extend", "stretch"], 2, "loop"),
        (["--video", "nothing.mp4", "--audio", "TALK", "--out", "OUT"], 1, "no such file"),
        (["--video", "TALK", "--audio", "nothing.wav", "--out", "OUT"], 1, "no such file"),
        (["--video", "TALK", "--audio", "TALK", "--out", "TALK"], 1, "input"),
        (["--pairs", "nothing", "--out", "OUT"], 2, "list"),
    ],
)
def test_slips_get_one_sentence(talk: Path, tmp_path: Path, arguments: list[str], exit_code: int, words: str):
    places = {"TALK": str(talk), "OUT": str(tmp_path / "new.mp4")}
    result = run(*[places.get(argument, argument) for argument in arguments], "--model", "identity")
    assert result.exit_code == exit_code
    assert words in result.output and "Traceback" not in result.output
    assert not (tmp_path / "new.mp4").exists()


def test_a_batch_with_a_bad_pair_ends_with_exit_code_1(talk: Path, tmp_path: Path):
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "pairs.csv").write_text(f"video,audio,out\n{talk},{talk},good.mp4\nbad.mp4,{talk},bad.mp4\n")
    out = tmp_path / "results"
    for made in ("1 of 2  made", "1 of 2  made"):  # the second time it is there
        result = run("--pairs", tmp_path / "pairs.csv", "--out", out, "--model", "identity")
        assert result.exit_code == 1
        assert made in result.output and "1 made, 1 failed" in result.output
    assert (out / "good.mp4").exists() and (out / "results.parquet").exists()
