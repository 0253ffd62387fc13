"""Bad input to a trainer: one clear sentence, an exit code, nothing lost."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipforge.datasets_manifest.selection import read_selection
from lipforge.train.config import Stage1Config, load_preset
from lipforge.train.features.command import compute_features
from lipforge.train.features.extract import ModelFiles
from tests.ranks import run_ranks
from tests.stream_clips import select
from tests.train_runs import coded_selection, losses, settings

pytest.importorskip("accelerate", reason="the package accelerate is not installed")


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def finished(selection: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("finished")
    ended = run_ranks("stage1", settings(selection, folder / "run"), folder)
    assert ended.exit_codes == [0], ended.words
    return folder / "run"


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(arguments: list[str], folder: Path, words: str, num_ranks: int = 1) -> str:
    ended = run_ranks("stage1", arguments, folder, num_ranks)
    assert None not in ended.exit_codes
    assert 0 not in ended.exit_codes
    assert words in ended.words, ended.words
    assert "Traceback" not in ended.words
    assert ended.words.count("lipforge: ") == 1
    return ended.words


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("selection=nowhere.parquet", "nowhere.parquet"),
        ("num_frames=25", "shorter than 50 frames"),
        ("resolution=256", "frames of 128 px, but resolution is 256: set resolution=128"),
        ("resolution=64", "let resize=true shrink them"),
        ("features=nowhere", "`lipforge features SELECTION --out nowhere` makes it"),
        ("unet=tiny", "unet=tiny: no such layout; known: stage1"),
        ("init=nowhere.safetensors", "no file of weights at nowhere.safetensors"),
        ("vae=nowhere", "nowhere"),
        ("audio_encoder=nowhere.pt", "no Whisper checkpoint nowhere.pt"),
        ("trainable=[nothing.]", "trainable=['nothing.']: no weight of unet=tiny_stage1 has such a name"),
        ("lora.rank=4", "lora adapts weights that are there already: set init"),
        ("device=cuda", "device=cuda, but torch sees no GPU here"),
        ("mixed_precision=fp16", "mixed_precision=fp16 needs a GPU"),
        ("num_step=3", "num_step: no such setting; did you mean num_steps?"),
        ("num_steps=many", "num_steps"),
    ],
)
def test_wrong_setting_is_one_sentence(selection: str, tmp_path: Path, setting: str, words: str, num_ranks: int):
    if num_ranks == 2 and setting not in ("num_frames=25", "vae=nowhere", "num_steps=many"):
        pytest.skip("one of each kind is enough with two ranks")
    run_dir = tmp_path / "run"
    refused(settings(selection, run_dir, setting), tmp_path, words, num_ranks)
    assert not (run_dir / "checkpoints").exists()


def test_preset_of_another_trainer_is_named_as_that(tmp_path: Path):
    with pytest.raises(ValueError, match=r"tiny_stage2 is a preset of another trainer; those of train\.stage1: "):
        load_preset(Stage1Config, "tiny_stage2", ["selection=s", f"run_dir={tmp_path}"])


def test_empty_selection_is_one_sentence(selection: str, tmp_path: Path):
    empty = select(tmp_path / "empty.parquet", read_selection(selection).slice(0, 0))
    refused(settings(empty, tmp_path / "run"), tmp_path, "holds no clip")


def test_other_files_in_the_folder_are_left_alone(selection: str, tmp_path: Path):
    theirs = tmp_path / "mine"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    refused(settings(selection, theirs), tmp_path, "holds other files")
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("num_frames=6", "another num_frames (was 5, is 6)"),
        ("seed=1", "another seed (was 0, is 1)"),
        ("unet=tiny_stage2", "another unet"),
        ("optimizer.name=adamw8bit", "another optimizer.name"),
        ("resume=never", "resume=never"),
    ],
)
def test_run_does_not_go_on_with_others(selection: str, run_dir: Path, tmp_path: Path, setting: str, words: str):
    refused(settings(selection, run_dir, setting), tmp_path, words)
    assert list(losses(run_dir)) == [1, 2, 3, 4]


def test_run_does_not_go_on_with_another_selection(selection: str, run_dir: Path, tmp_path: Path):
    other = select(tmp_path / "other.parquet", read_selection(selection).slice(1))
    refused(settings(other, run_dir), tmp_path, "another stream: selection was")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "network.safetensors").write_bytes(b"short"),
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        lambda folder: (folder / "state.json").write_text("{"),
        lambda folder: (folder / "state.json").unlink(),
    ],
    ids=["cut off", "file gone", "state damaged", "state gone"],
)
def test_damaged_checkpoint_names_what_to_delete(selection: str, run_dir: Path, tmp_path: Path, damage: object):
    newest = run_dir / "checkpoints" / "step-00000004"
    damage(newest)
    words = refused(settings(selection, run_dir), tmp_path, f"checkpoint {newest} is damaged")
    assert "delete it; the run then goes on after step 2" in words
    shutil.rmtree(newest)
    ended = run_ranks("stage1", settings(selection, run_dir, "num_steps=3"), tmp_path)
    assert ended.exit_codes == [0], ended.words
    assert list(losses(run_dir)) == [1, 2, 3]


def test_damaged_sample_on_one_rank_stops_all_ranks_or_is_skipped_by_both(selection: str, tmp_path: Path):
    rows = read_selection(selection).to_pylist()
    dataset = Path(shutil.copytree(Path(rows[0]["dataset"]), tmp_path / "dataset"))
    for row in rows:
        row["dataset"] = str(dataset)
    shard = dataset / rows[2]["shard"]
    content = bytearray(shard.read_bytes())
    middle = rows[2]["sample_offset"] + rows[2]["sample_size"] // 2
    content[middle : middle + 100] = bytes(100)
    shard.write_bytes(content)
    moved = select(tmp_path / "moved.parquet", pa.Table.from_pylist(rows, read_selection(selection).schema))
    words = refused(settings(moved, tmp_path / "raises"), tmp_path, "is damaged", 2)
    assert rows[2]["key"] in words
    skipping = settings(moved, tmp_path / "skips", "on_damage=skip")
    ended = run_ranks("stage1", skipping, tmp_path, 2)
    assert ended.exit_codes == [0, 0], ended.words
    assert "skipped: sample" in ended.words
    assert len(losses(tmp_path / "skips")) == 4


def test_run_without_val_split_says_so_and_trains(selection: str, tmp_path: Path):
    table = pq.read_table(selection)
    alone = select(tmp_path / "train.parquet", read_selection(selection, "train"))
    ended = run_ranks("stage1", settings(alone, tmp_path / "run"), tmp_path)
    assert ended.exit_codes == [0], ended.words
    assert "no val split, so no validation" in ended.words
    assert table.num_rows > pq.read_table(alone).num_rows
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert not any("val_loss" in json.loads(line) for line in lines)


def test_features_that_the_val_split_lacks_are_missed_before_the_first_step(selection: str, tmp_path: Path):
    files = ModelFiles(mel=True)
    train_only = select(tmp_path / "train.parquet", read_selection(selection, "train"))
    compute_features(train_only, str(tmp_path / "features"), files, "local", None)
    command = settings(selection, tmp_path / "run", f"features={tmp_path / 'features'}")
    refused(command, tmp_path, "clips have no mel features")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
