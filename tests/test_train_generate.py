"""Validation by generated video: what is drawn, judged, kept and said, on two ranks and after a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from lipforge.train.loop.held_out import HeldOut, choose, fitted, foreign_of, read_held_out
from lipforge.train.status import read_status, status_lines
from tests.face_clips import face_selection
from tests.ranks import run_ranks
from tests.test_train_runs import KilledAfter
from tests.test_train_strategies import environment_of
from tests.train_runs import coded_selection, model_hash

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

CHEAP = ["resolution=64", "resize=true", "num_frames=12", "num_validation_samples=1"]
CHEAP += ["generate.steps=1", "generate.guidance=1", "generate.seconds=1"]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return face_selection(tmp_path_factory.mktemp("faces"), num_val=2, num_frames=26)


def settings(selection: str, run_dir: Path, *more: str) -> list[str]:
    places = [f"selection={selection}", f"run_dir={run_dir}"]
    steps = ["num_steps=2", "save_every=1", "validate_every=2"]
    return ["--config", "tiny_stage1", "--set", *places, *CHEAP, *steps, *more]


def generated(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Lines of generated video by step, without the time."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if "val_clips" in row]
    assert len({row["step"] for row in found}) == len(found), "a step is there twice"
    return {row["step"]: {name: value for name, value in row.items() if name != "time"} for row in found}


def few_numbers(rank: int) -> None:
    """Without ST-LPIPS, which takes most of the time."""
    from lipforge.train.loop import generate

    generate._NUMBERS = (generate.SYNC, generate.OFFSET, "ssim")


@pytest.fixture(scope="module")
def shared(selection: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings: two clips, and the first of them as a base clip. So of two ranks one draws twice, and one once."""
    base = tmp_path_factory.mktemp("base") / "base.parquet"
    rows = pq.read_table(selection)
    pq.write_table(rows.slice(rows.num_rows - 2, 1), base)
    return ["generate.num_clips=2", f"base_selection={base}"]


@pytest.fixture(scope="module")
def two_ranks(selection: str, shared: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a single step."""
    run_dir = tmp_path_factory.mktemp("ranks") / "run"
    command = settings(selection, run_dir, "num_steps=1", *shared)
    ended = run_ranks("stage1", command, run_dir.parent, 2, before=few_numbers)
    assert ended.exit_codes == [0, 0], ended.words
    return run_dir


def test_clips_are_judged_before_the_first_step_and_after_the_last(two_ranks: Path):
    rows = generated(two_ranks)
    assert list(rows) == [0, 1]
    for row in rows.values():
        assert row["val_clips"] == 2
        for label in ("own", "shifted", "foreign"):
            assert np.isfinite([row[f"val_{label}_sync_confidence"], row[f"val_{label}_sync_offset_frames"]]).all()
        assert 0 < row["val_own_ssim"] < 1 and row["picture"] == pytest.approx(1 - row["val_own_ssim"])
    first, last = rows.values()
    assert abs(first["val_original_sync_offset_frames"]) <= 1
    assert first["val_still_sync_confidence"] < first["val_original_sync_confidence"]
    assert first["val_original_foreign_sync_confidence"] < first["val_original_sync_confidence"]
    assert not any("original" in name for name in last)


def test_base_clips_are_compared_with_what_they_were(two_ranks: Path):
    first, last = generated(two_ranks).values()
    state = json.loads((two_ranks / "checkpoints" / "step-00000001" / "state.json").read_text())
    for found, row in zip(state["generated"], (first, last), strict=True):
        ((key, confidence),) = found["base"].items()
        assert confidence == pytest.approx(found["sync"][key])  # the same clip
        assert row["val_base_own_sync_confidence"] == confidence
    lost = 1 - last["val_base_own_sync_confidence"] / first["val_base_own_sync_confidence"]
    assert last["val_base_forgotten"] == pytest.approx(lost)
    assert "val_base_forgotten" not in first


def test_a_film_of_each_clip_can_be_seen_and_heard_with_every_sound(two_ranks: Path):
    folder = two_ranks / "pictures" / "step-00000001"
    films = sorted(folder.glob("*.mp4"))
    assert len(films) == 2 and (folder / "sheet.png").exists()
    with av.open(str(films[0])) as film:
        assert (film.streams.video[0].width, film.streams.video[0].frames) == (4 * 128, 3 * 25)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
    assert min(np.abs(third).mean() for third in np.array_split(sound, 3)) > 0.001


def test_status_tells_the_course_and_the_best_model(two_ranks: Path):
    assert (two_ranks / "best" / "model" / "config.json").exists()
    text = "\n".join(status_lines(read_status(two_ranks)))
    for words in ("generated", "original clips", "one frame's mouth", "step 0", "step 1", "best         step 1: "):
        assert words in text


@pytest.mark.slow
def test_killed_run_finds_the_same_numbers(selection: str, tmp_path: Path):
    straight, killed = (settings(selection, tmp_path / name, "generate.num_clips=1") for name in ("straight", "killed"))
    assert run_ranks("stage1", straight, tmp_path).exit_codes == [0]
    assert run_ranks("stage1", killed, tmp_path, before=KilledAfter(2)).exit_codes == [-signal.SIGKILL]
    assert run_ranks("stage1", killed, tmp_path).exit_codes == [0]
    assert list(generated(tmp_path / "straight")) == [0, 2]
    assert generated(tmp_path / "killed") == generated(tmp_path / "straight")
    for row in generated(tmp_path / "straight").values():
        assert row["val_own_st_lpips_mouth"] > 0 and row["picture"] == row["val_own_st_lpips"]
    assert model_hash(tmp_path / "killed") == model_hash(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_two_ranks_stop_early_stay_stopped_and_go_on_when_asked(
    selection: str, shared: list[str], two_ranks: Path, tmp_path: Path, name: str
):
    if name == "zero2":
        pytest.importorskip("deepspeed", reason="the package deepspeed is not installed")
    run_dir, environment = tmp_path / "run", environment_of(name)
    command = settings(selection, run_dir, "num_steps=4", "generate.every=1", *shared)
    impatient = [*command, "early_stopping={patience: 1, min_gain: 100}"]
    for words in ("the run ends at step 2: no gain", "step-00000002 of 4 steps: the run ended there: no gain"):
        ended = run_ranks("stage1", impatient, tmp_path, 2, environment, few_numbers)
        assert ended.exit_codes == [0, 0], ended.words
        assert words in ended.words
        assert list(generated(run_dir)) == [0, 1, 2]
        status = read_status(run_dir)
        assert status.is_done and "ended early" in status_lines(status)[0]
    # Before the first step, networks that are shared out draw what whole ones draw.
    whole, found = generated(two_ranks)[0], generated(run_dir)[0]
    for number in ("val_own_sync_confidence", "val_foreign_ssim", "val_own_ssim", "val_base_own_sync_confidence"):
        assert found.get(number) == pytest.approx(whole.get(number), abs=1e-3)

    ended = run_ranks("stage1", [*command, "early_stopping=null"], tmp_path, 2, environment, few_numbers)
    assert ended.exit_codes == [0, 0], ended.words
    assert list(generated(run_dir)) == [0, 1, 2, 3, 4]
    assert "all steps made" in status_lines(read_status(run_dir))[0]


def forgets_all(rank: int) -> None:
    """Base clips show no face after the first step."""
    from lipforge.train.loop import generate

    few_numbers(rank)
    whole = generate.forgetting
    generate.forgetting = lambda before, now, bound: whole(before, {}, bound)


@pytest.mark.slow
def test_run_that_forgets_ends_without_a_best_model_and_goes_on_when_asked(
    selection: str, shared: list[str], tmp_path: Path
):
    run_dir = tmp_path / "run"
    command = settings(selection, run_dir, "generate.every=1", *shared)
    for words in (
        "the run ends at step 1: the base clips lost",
        "of 2 steps: the run ended there: the base clips lost",
    ):
        ended = run_ranks("stage1", [*command, "on_forgetting=stop"], tmp_path, before=forgets_all)
        assert ended.exit_codes == [0], ended.words
        assert words in ended.words
        assert list(generated(run_dir)) == [0, 1]
        assert not (run_dir / "best").exists()
        lines = status_lines(read_status(run_dir))
        assert "ended early" in lines[0]
        assert any("forgot more than max_forgetting" in line for line in lines)
    ended = run_ranks("stage1", [*command, "on_forgetting=warn"], tmp_path, before=forgets_all)
    assert ended.exit_codes == [0], ended.words
    assert list(generated(run_dir)) == [0, 1, 2]


def test_clips_without_a_face_decide_nothing_and_it_is_said(tmp_path: Path):
    selection = coded_selection(tmp_path, 2, 2)
    command = settings(selection, tmp_path / "run", "num_steps=1", "generate.num_clips=1")
    ended = run_ranks("stage1", command, tmp_path)
    assert ended.exit_codes == [0], ended.words
    assert "no held-out clip can be judged" in ended.words
    assert generated(tmp_path / "run") == {}
    assert (tmp_path / "run" / "best" / "model" / "unet.safetensors").exists()  # by validation loss


def test_clips_shorter_than_a_second_are_left_out(tmp_path: Path):
    clips, num_short = read_held_out(coded_selection(tmp_path, 2, 2, 24), 8, 3.0)
    assert (clips, num_short) == ([], 2)


def test_the_middle_of_a_clip_is_taken_with_its_sound_around(tmp_path: Path):
    (clip, *_), _ = read_held_out(coded_selection(tmp_path, 2, 2, 40), 8, 1.0)
    assert (clip.first, clip.num_frames, clip.frames().shape) == (7, 25, (25, 128, 128, 3))
    assert clip.audio.shape == (55 * 640,)
    # 7 frames of the clip lie before: of the 15 frames of margin, the first 8 are silent
    assert not clip.audio[: 8 * 640].any() and clip.audio[8 * 640 :][:640].any()


def row(key: str, language: str, speaker: str) -> dict[str, str]:
    return {"key": key, "language": language, "speaker": speaker, "source_id": ""}


def test_speakers_and_languages_take_turns():
    rows = [row(f"a{n}", "de", "anna") for n in range(5)]
    rows += [row("b0", "de", "ben"), row("c0", "zh", "chen"), row("c1", "zh", "chen")]
    chosen = choose(rows, 4)
    assert [found["language"] for found in chosen] == ["de", "zh", "de", "zh"]
    assert {found["speaker"] for found in chosen} == {"anna", "ben", "chen"}
    assert choose(rows[::-1], 4) == chosen


def test_a_foreign_sound_is_another_speakers():
    sound = np.ones(40 * 640, np.float32)
    clips = [HeldOut(str(n), "de", speaker, 10, 0, b"", sound) for n, speaker in enumerate("aab")]
    assert foreign_of(clips) == [2, 2, 0]
    assert foreign_of(clips[:2]) == [None, None]
    longer = fitted(sound, 20)
    assert longer.shape == (50 * 640,) and longer[: 40 * 640].all() and not longer[40 * 640 :].any()
