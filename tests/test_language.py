"""Which language is spoken: Whisper's own head, the vote of a source's clips, and what of it the dataset keeps."""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.language import LanguageIdentifier, read_whisper_file
from lipforge.model.weights import load as weights
from lipforge.model.weights.load import MissingModelError
from lipforge.model.weights.state_dicts import ModelFileError
from lipforge.pipeline import maintain
from lipforge.pipeline.cli import app
from lipforge.pipeline.config import PrepareConfig, RunConfig
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.side_files import SegmentFiles
from lipforge.pipeline.maintain import identify_languages, prune, repack
from lipforge.pipeline.publish import languages as pipeline_languages
from lipforge.pipeline.publish.languages import open_whisper
from lipforge.pipeline.publish.votes import VOTE_COLUMNS, majority
from tests.conftest import run_prepare, snapshot
from tests.far_workers import FarWorkers
from tests.made_dataset import MadeSource, add_sources, audio_of, make_dataset, pack_dataset
from tests.tar_index import find_samples
from tests.whisper_file import DIMS, whisper_file

pytest.importorskip("whisper")

LOCAL_RUN = RunConfig(executor="local")
ENGLISH_ONLY = Path(__file__).parents[2] / "shared" / "models" / "whisper-tiny.en.pt"


def saved(folder: Path, language: str | None = "hi", name: str = "mine.pt", **options: int) -> str:
    path = folder / name
    path.write_bytes(whisper_file(language, **options))
    return str(path)


def languages(store: Store) -> dict[str, tuple[str, float | None, str]]:
    """(language, probability, source) by the name of the video."""
    found = {}
    for row in read_manifest(store.root).to_pylist():
        prob = row["language_prob"]
        seen = (row["language"], None if prob is None else round(prob, 3), row["language_source"])
        assert found.setdefault(Path(row["source_uri"]).stem, seen) == seen  # one language for all rows of a source
    return found


def shards(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.list("shards")}


def packed(store: Store) -> list[str]:
    """Keys of all samples in shards."""
    return [key for data in shards(store).values() for key in find_samples(io.BytesIO(data))]


def identify_all(store: Store, whisper: str) -> dict[str, int]:
    return identify_languages(store.root, whisper, LOCAL_RUN, lambda done, total: None).sources


# --- the network --------------------------------------------------------------------------------------------------


def test_it_answers_as_the_publishers_own_package(tmp_path: Path) -> None:
    import whisper

    path = saved(tmp_path, None)
    theirs = whisper.load_model(path, device="cpu")
    ours = LanguageIdentifier(Path(path).read_bytes(), "mine")
    answers = []
    for seconds in (5, 9, 31):
        audio = np.random.default_rng(seconds).normal(0, 0.02 * seconds, seconds * 16_000).astype(np.float32)
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), 80)
        _, probabilities = theirs.detect_language(mel)
        assert isinstance(probabilities, dict)
        best = max(probabilities, key=lambda code: probabilities[code])
        answers.append(ours.identify(audio))
        assert answers[-1] == (best, pytest.approx(probabilities[best], rel=1e-5))
    assert len({probability for _, probability in answers}) == 3  # it listens
    assert ours.name == "whisper:mine"


def test_codes_are_those_of_bcp_47() -> None:
    for code, tag in (("jw", "jv"), ("tl", "fil"), ("zh", "zh")):
        language, probability = LanguageIdentifier(whisper_file(code), "x").identify(audio_of("0a"))
        assert (language, probability > 0.9) == (tag, True)


def test_an_english_only_checkpoint_is_refused_in_words() -> None:
    with pytest.raises(weights.ModelFileError, match=r"English-only.*multilingual checkpoint: tiny, base, small"):
        LanguageIdentifier(whisper_file(n_vocab=51864), "small.en")
    if ENGLISH_ONLY.is_file():
        with pytest.raises(weights.ModelFileError, match=r"whisper-tiny\.en is an English-only"):
            LanguageIdentifier(ENGLISH_ONLY.read_bytes(), ENGLISH_ONLY.stem)


def test_missing_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError, match=r"(?s)^1 model file .*`lipforge models fetch whisper`.*tiny\.pt"):
        read_whisper_file("tiny")
    with pytest.raises(MissingModelError, match=r"no Whisper checkpoint tiny\.pth.*lipforge models fetch whisper"):
        read_whisper_file("tiny.pth")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.pt").write_bytes(whisper_file())
    with pytest.raises(ModelFileError, match=r"not the expected tiny\.pt"):
        read_whisper_file("tiny")


def test_without_the_package_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "whisper.model", None)
    with pytest.raises(weights.ModelFileError, match="openai-whisper, which is not installed: pip install"):
        LanguageIdentifier(b"", "x")


class _Runs:
    def __reduce__(self) -> tuple:
        return print, ("pwned",)


def _torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_hostile_checkpoints_are_refused_and_nothing_in_them_runs(capsys: pytest.CaptureFixture[str]) -> None:
    good = torch.load(io.BytesIO(whisper_file()), weights_only=True)
    tensors = good["model_state_dict"]
    dims = {"n_text_ctx": 10**9, "n_audio_head": 0, "n_text_head": 3, "n_vocab": 51866, "n_text_layer": "1", "extra": 1}
    wrong = [b"", b"PK\3\4 no zip", whisper_file()[:-9000]]
    wrong += [_torch_file({"dims": {**DIMS, key: value}, "model_state_dict": tensors}) for key, value in dims.items()]
    wrong += [_torch_file(content) for content in ({"model_state_dict": tensors}, {"dims": DIMS}, tensors, [1])]
    missing = {key: value for key, value in tensors.items() if key != "encoder.ln_post.bias"}
    wrong += [_torch_file({"dims": DIMS, "model_state_dict": missing})]
    wrong += [_torch_file({**good, "more": _Runs()})]
    for content in wrong:
        with pytest.raises(ModelFileError):
            LanguageIdentifier(content, "x")
    assert "pwned" not in capsys.readouterr().out


def test_sound_that_is_none_is_a_mistake_of_the_caller() -> None:
    listener = LanguageIdentifier(whisper_file(), "x")
    for audio in (np.zeros((2, 16000)), np.zeros(0), np.full(16000, np.nan)):
        with pytest.raises(ValueError, match="mono audio"):
            listener.identify(audio.astype(np.float32))


# --- the vote -----------------------------------------------------------------------------------------------------


def test_the_majority_is_weighted_by_probability() -> None:
    sure = majority([("hi", 0.9), ("ur", 0.4), ("ur", 0.4)], "w")
    assert sure is not None and (sure.language, sure.probability, sure.model) == ("hi", pytest.approx(0.3), "w")
    many = majority([("hi", 0.9), ("ur", 0.5), ("ur", 0.5)], "w")
    assert many is not None and (many.language, many.probability) == ("ur", pytest.approx(1 / 3))
    tie = majority([("ur", 0.5), ("hi", 0.5)], "w")
    assert tie is not None and tie.language == "hi"
    assert majority([], "w") is None
    spelled = majority([("tl", 0.5), ("fil", 0.3), ("en", 0.6)], "w")  # votes of an earlier version
    assert spelled is not None and (spelled.language, spelled.probability) == ("fil", pytest.approx(0.8 / 3))


# --- a dataset ----------------------------------------------------------------------------------------------------

SOURCES = (
    MadeSource("talk"),
    MadeSource("dubbed", [{"sync_confidence": 0.1}] * 2),
    MadeSource("music", [{"speech_ratio": 0.1}] * 2),
    MadeSource("named", language="en"),
)


def test_the_command_changes_the_manifest_and_no_shard(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", SOURCES)
    before, whisper = shards(store), saved(tmp_path)
    old = {row["key"]: row for row in read_manifest(store.root).to_pylist()}
    assert {found[0] for name, found in languages(store).items() if name != "named"} == {"und"}
    assert identify_all(store, whisper) == {"hi": 2, "und": 1}
    assert languages(store) == {
        "talk": ("hi", 0.982, "whisper:mine"),
        "dubbed": ("hi", 0.982, "whisper:mine"),  # refused clips count, too: yield by language needs them
        "music": ("und", None, "none"),  # nobody speaks
        "named": ("en", 1.0, "list"),  # the user's label wins
    }
    assert shards(store) == before
    for row in read_manifest(store.root).to_pylist():
        same = {name: value for name, value in row.items() if not name.startswith("language")}
        assert same.items() <= old[row["key"]].items()


def test_a_second_time_hears_nothing_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, whisper = make_dataset(tmp_path / "d", SOURCES), saved(tmp_path)
    identify_all(store, whisper)
    before = {path: data for path, (data, _) in snapshot(tmp_path / "d").items()}
    monkeypatch.setattr(LanguageIdentifier, "identify", lambda *_: pytest.fail("heard again"))
    identify_all(store, whisper)
    assert {path: data for path, (data, _) in snapshot(tmp_path / "d").items()} == before


def test_languages_survive_packing_and_more_sources(tmp_path: Path) -> None:
    """Old shards stay where they are; clips stored later go to the folder of the language known by then."""
    store = make_dataset(tmp_path / "d", SOURCES)
    before = shards(store)
    identify_all(store, saved(tmp_path))
    add_sources(store, [MadeSource("late")])
    pack_dataset(store)
    assert languages(store)["talk"] == ("hi", 0.982, "whisper:mine") and languages(store)["late"][0] == "und"
    repack(store.root, ["min_sync_confidence=0"], None)  # the dubbed ones come in
    assert before.items() <= shards(store).items()
    rows = read_manifest(store.root).to_pylist()
    folders = {Path(row["source_uri"]).stem: row["shard"].split("/")[1] for row in rows if row["status"] == "kept"}
    assert folders == {"talk": "und", "dubbed": "hi", "named": "en", "late": "und"}
    kept = [row["key"] for row in rows if row["status"] == "kept"]
    assert sorted(packed(store)) == sorted(kept)


def test_a_clip_that_is_refused_and_comes_back_stays_where_it_is(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk", [{}, {"quality": 50.0}])])
    before = shards(store)
    identify_all(store, saved(tmp_path))
    repack(store.root, ["min_quality=55"], None)
    assert [row["status"] for row in read_manifest(store.root).to_pylist()] == ["kept", "rejected"]
    repack(store.root, ["min_quality=40"], None)
    assert {row["shard"] for row in read_manifest(store.root).to_pylist()} == {*before}
    assert shards(store) == before


def test_stopped_half_way_it_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_languages, "_CLIPS", 3)
    monkeypatch.setattr(pipeline_languages, "_WRITE_EVERY_S", 0.0)
    sources = [MadeSource(name) for name in ("one", "two", "three")]
    straight, stopped = (make_dataset(tmp_path / name, sources) for name in ("a", "b"))
    whisper = saved(tmp_path)
    identify_languages(straight.root, whisper, LOCAL_RUN, lambda done, total: None)

    def killed(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        identify_languages(stopped.root, whisper, LOCAL_RUN, killed)
    heard = []
    identify_languages(stopped.root, whisper, LOCAL_RUN, lambda done, total: heard.append(total))
    assert set(heard) == {6}  # three were on record: the last three before the stop were not yet
    assert languages(stopped) == languages(straight)
    assert votes(stopped) == votes(straight)


def votes(store: Store) -> list[dict]:
    table = SegmentFiles(store, "languages").read(1)
    assert table is not None
    return table.to_pylist()


def test_no_language_is_told_from_some_of_the_clips_or_from_two_checkpoints(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk")])
    identify_all(store, saved(tmp_path))
    files = SegmentFiles(store, "languages")
    files.write(1, pa.Table.from_pylist(votes(store)[:2], VOTE_COLUMNS))
    pack_dataset(store)
    assert languages(store)["talk"] == ("und", None, "none")
    identify_all(store, saved(tmp_path, "fr", "other.pt"))
    assert languages(store)["talk"] == ("fr", 0.982, "whisper:other")


def test_pruned_clips_do_not_vote(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk", [{}, {"quality": 5.0}])])
    prune(store.root)
    assert store.list("refused") == []
    identify_all(store, saved(tmp_path))
    assert languages(store)["talk"] == ("hi", 0.982, "whisper:mine")


@pytest.mark.parametrize("damage", ["gone", "header", "sound"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk")])
    (shard,) = (tmp_path / "d").glob("shards/*/*.tar")
    data = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    else:
        at = data.index(b".flac") if damage == "header" else data.index(b"fLaC")
        data[at : at + 4] = b"XXXX"
        shard.write_bytes(data)
    with pytest.raises(DatasetError, match=r"und-[0-9a-f]{16}\.tar is (missing|damaged).*from a copy"):
        identify_all(store, saved(tmp_path))
    assert languages(store)["talk"][0] == "und"


def test_a_dataset_in_an_object_store(tmp_path: Path) -> None:
    store = make_dataset("memory://languages/d", [MadeSource("talk")])
    assert identify_all(store, saved(tmp_path)) == {"hi": 1}


def test_on_the_command_line(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk"), MadeSource("named", language="en")])
    words = ["identify-languages", store.root, "--executor", "local", "--whisper"]
    result = CliRunner().invoke(app, [*words, saved(tmp_path, n_vocab=51864, language=None)])
    assert result.exit_code == 1 and "English-only" in result.output
    assert languages(store)["talk"] == ("und", None, "none")
    result = CliRunner().invoke(app, [*words, saved(tmp_path)])
    assert (result.exit_code, result.output.strip()) == (0, "hi: 1 source")
    result = CliRunner().invoke(app, ["identify-languages", str(tmp_path / "nothing"), "--whisper", saved(tmp_path)])
    assert result.exit_code == 1 and "is not a dataset" in result.output and not (tmp_path / "nothing").exists()


def test_whisper_runs_on_the_gpu_that_its_workers_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far workers have GPUs that torch cannot use, as where its build is for CPUs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    store = make_dataset(tmp_path / "d", SOURCES)
    words = ["identify-languages", store.root, "--whisper", saved(tmp_path), "--gpus-per-worker", "0.25"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "--gpus-per-worker 0.25: torch sees no GPU on this machine" in result.output
    monkeypatch.setenv("RAY_ADDRESS", "a cluster")
    workers = FarWorkers(PrepareConfig())
    monkeypatch.setattr(maintain, "make_executor", lambda config: workers)
    result = CliRunner().invoke(app, words)
    assert workers.num_gpus == 0.25
    assert result.exit_code == 0 and "Whisper ran on the CPU" in result.output


def test_a_worker_that_reserved_a_gpu_computes_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices = [open_whisper(saved(tmp_path), num_gpus).device() for num_gpus in (0, 0.5)]
    assert devices == ["cpu", "cuda"]


@pytest.mark.gpu
def test_the_gpu_hears_what_the_cpu_hears(tmp_path: Path) -> None:
    whisper, audio = open_whisper(saved(tmp_path, language=None), num_gpus=1), audio_of("talk")
    (here, sure_here), (there, sure_there) = (whisper.opened(device).identify(audio) for device in ("cpu", "cuda"))
    assert (there, sure_there) == (here, pytest.approx(sure_here, rel=1e-3))


# --- in prepare ---------------------------------------------------------------------------------------------------


def prepare_with(whisper: str | None, talking_clip: Path, out: Path):
    tree = {"run": {"executor": "local"}, "encode": {"preset": "ultrafast"}, "language": {"whisper": whisper}}
    return run_prepare([str(talking_clip)], out, PrepareConfig.model_validate(tree))


def test_prepare_identifies_before_it_packs_and_goes_on_without_a_checkpoint(
    models: dict, talking_clip: Path, tmp_path: Path
) -> None:
    summary = prepare_with(saved(tmp_path), talking_clip, tmp_path / "d")
    assert summary.notes == []
    store = Store(str(tmp_path / "d"))
    assert list(languages(store).values()) == [("hi", 0.982, "whisper:mine")]
    assert [name.rpartition("-")[0] for name in store.list("shards")] == ["shards/hi/hi"]
    before = shards(store)
    summary = prepare_with(str(tmp_path / "none.pt"), talking_clip, tmp_path / "d")  # another setting, the same dataset
    assert "languages are not identified" in summary.notes[0] and "lipforge models fetch whisper" in summary.notes[0]
    assert list(languages(store).values()) == [("hi", 0.982, "whisper:mine")] and shards(store) == before
