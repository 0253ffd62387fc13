"""Wrong settings are said in plain words, by every program alike: what was given, what fits, what was meant."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.train.config import Stage1Config, load_preset
from tests.made_dataset import MadeSource, make_dataset

FOREIGN = ("Value error", "Input should", "Extra inputs", "pydantic", "{", "True", "None")
"""What no message of ours holds."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read only."""
    return make_dataset(tmp_path_factory.mktemp("words") / "d", [MadeSource("one")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("min_clip_s=1000", "config: thresholds.min_clip_s is 1000, but cut.max_clip_s is 10: no clip would be kept"),
        ("min_quality=true", "config: thresholds.min_quality: expected a number (given: true)"),
        ("min_quality=good", "config: thresholds.min_quality: expected a number (given: 'good')"),
        ("min_quality=-1", "config: thresholds.min_quality: expected 0 or more (given: -1)"),
        ("min_quality=.inf", "config: thresholds.min_quality: expected a finite number (given: inf)"),
        ("max_av_offset_frames=2.5", "config: thresholds.max_av_offset_frames: expected a whole number (given: 2.5)"),
        ("min_quality={a: 1}", "config: thresholds.min_quality: expected a number (given: a section)"),
        ("min_qualty=50", "--set min_qualty=50: did you mean min_quality? expected one of max_outside_ratio"),
        ("min_quality=", "--set min_quality=: expected a number"),
    ],
)
def test_pack(dataset: Store, change: str, words: str) -> None:
    before = dataset.list("manifest")
    result = CliRunner().invoke(app, ["pack", dataset.root, "--set", change])
    assert result.exit_code == 2 and words in result.output, result.output
    said = result.output.removeprefix(f"lipforge: --set {change}")
    assert not any(foreign in said for foreign in FOREIGN) and dataset.list("manifest") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("align.resoluton=512", "align.resoluton: no such setting; did you mean align.resolution?"),
        ("min_quality=50", "min_quality: no such setting; did you mean thresholds.min_quality?"),
        ("run.min_quality=50", "run.min_quality: no such setting; did you mean thresholds.min_quality?"),
        ("run.score.cpu=1", "run.score.cpu: no such setting; did you mean run.score.cpus?"),
        ("encode.xyzzy=1", "encode.xyzzy: no such setting; known: encode.crf, encode.preset, encode.gop_frames"),
        ("xyzzy=1", "xyzzy: no such setting; known: models, resample, shots"),
        ("align.resolution=300", "align.resolution: expected 96, 256 or 512 (given: 300)"),
        ("align.resolution=96", "align: resolution 96 is for template wav2lip; for latentsync: 256 or 512"),
        ("align=5", "align: expected settings by name (given: 5)"),
        ("faces.policy=none", "faces.policy: expected 'all', 'single' or 'largest' (given: 'none')"),
        ("speaker.by_voice=perhaps", "speaker.by_voice: expected true or false (given: 'perhaps')"),
        ("run.workers=yes", "run.workers: expected a number (given: true)"),
        ("run.workers=0", "run.workers: expected 1 or more (given: 0)"),
        ("run.workers.count=3", "run.workers: expected a whole number (given: a section)"),
        ("run.workers=[" + "1, " * 99 + "]", "run.workers: expected a whole number (given: [1, 1"),
        ("language.whisper=3", "language.whisper: expected text (given: 3)"),
        ("pack.shard_size_mb=0", "pack.shard_size_mb: expected more than 0 (given: 0)"),
    ],
)
def test_prepare(change: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(PrepareConfig, None, [change])
    text = str(caught.value)
    assert text.startswith("config: ") and words in text and len(text) < 300
    assert not any(foreign in text for foreign in FOREIGN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.learning_rat=1", "optimizer.learning_rat: no such setting; did you mean optimizer.learning_rate?"),
        ("lora.rnk=4", "lora.rnk: no such setting; did you mean lora.rank?"),
        ("patience=4", "patience: no such setting; did you mean early_stopping.patience?"),
        ("num_steps=true", "num_steps: expected a number (given: true)"),
        ("optimizer.betas=[true, 0.9]", "optimizer.betas: expected a number (given: [True, 0.9])"),
        ("optimizer.betas=0.9", "optimizer.betas: expected a list (given: 0.9)"),
        ("resolution=100", "resolution: expected a multiple of 8 (given: 100)"),
        ("ema.decay=1", "ema.decay: expected less than 1 (given: 1)"),
    ],
)
def test_train(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_preset(Stage1Config, "tiny_stage1", ["selection=s.parquet", f"run_dir={tmp_path}", change])
    assert str(caught.value) == f"config: {words}"


def test_damaged_settings_of_a_dataset_are_said_in_the_same_words(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, [MadeSource("one")])
    name = next(name for name in store.list("manifest") if "generation" in name)
    store.write(name, store.read(name).replace(b'"min_quality":40.0', b'"min_quality":"forty"'))
    result = CliRunner().invoke(app, ["pack", store.root])
    assert result.exit_code == 1 and "thresholds.min_quality: expected a number (given: 'forty')" in result.output


def test_numbers_and_truth_where_they_belong_are_taken() -> None:
    config = load_config(PrepareConfig, None, ["thresholds.min_quality=50", "speaker.by_voice=yes", "run.workers=null"])
    assert (config.thresholds.min_quality, config.speaker.by_voice, config.run.workers) == (50.0, True, None)
    assert load_preset(Stage1Config, "tiny_stage1", ["selection=s", "run_dir=r", "mixed_precision=no"]).seed >= 0
