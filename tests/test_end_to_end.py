"""`lipforge prepare` as a whole: on Ray and in one process, repeated, resumed, refused, and repacked."""

import errno
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.report.page import write_report
from lipforge.datasets_manifest.sample import read_still_at
from lipforge.datasets_manifest.storage import store as storage
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.maintain import prune, repack
from lipforge.pipeline.publish.prune import find_prunable
from lipforge.pipeline.recipe import CutOperator, CutUnit
from lipforge.pipeline.running.status import read_status
from lipforge.pipeline.running.workers import UnitWorker
from lipforge.pipeline.sources.inputs import Labels
from tests.coded import noise, write_coded
from tests.conftest import LOCAL, Prepared, run_prepare, snapshot
from tests.tar_index import find_samples


def shards(out: Path) -> dict[str, str]:
    """sha256 of every shard, by name."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("shards/*/*.tar"))
    }


def manifest_bytes(out: Path) -> bytes:
    """All bytes of the manifest in force."""
    generation = last_generation(Store(str(out)))
    assert generation is not None
    rows = b"".join((out / file["name"]).read_bytes() for file in generation.files)
    return to_json({"files": generation.files, "about": generation.about}) + rows


def rows(out: Path) -> list[dict[str, Any]]:
    return read_manifest(str(out)).to_pylist()


def outcome(out: Path) -> list[tuple[str, str]]:
    return sorted((Path(row["source_uri"]).name, row["reason"] or row["status"]) for row in rows(out))


@pytest.fixture(scope="session")
def local_dataset(small_inputs: Path, models: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same inputs as `ray_dataset`, in one process. Read only."""
    out = tmp_path_factory.mktemp("local") / "dataset"
    run_prepare([str(small_inputs)], out)
    return out


@pytest.fixture
def own_copy(local_dataset: Path, tmp_path: Path) -> Path:
    """A copy of `local_dataset` that a test may change."""
    shutil.copytree(local_dataset, tmp_path / "dataset")
    return tmp_path / "dataset"


# --- one run ---


def test_a_run_on_ray_gives_shards_a_manifest_and_a_report(ray_dataset: Prepared) -> None:
    out = ray_dataset.out
    assert outcome(out) == [
        ("base.mp4", "kept"),
        ("coded.mkv", "no_face"),
        ("music.mp4", "no_speech"),
        ("odd_size.webm", "kept"),
        ("text.mp4", "unreadable"),
    ]
    kept = {row["key"]: row for row in ray_dataset.rows if row["status"] == "kept"}
    read = {
        item["__key__"]: item
        for item in webdataset.WebDataset([str(out / name) for name in shards(out)], shardshuffle=False)
    }
    assert set(read) == set(kept)
    for key, row in kept.items():
        with (out / row["shard"]).open("rb") as file:
            file.seek(row["sample_offset"])
            data = file.read(row["sample_size"])
        with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
            assert tar.getnames() == [f"{key}.mp4", f"{key}.flac", f"{key}.json", f"{key}.npz"]
        assert json.loads(read[key]["json"])["source_id"] == row["source_id"]
    assert "<html" in Path(write_report(str(out))).read_text()[:500]
    assert snapshot(ray_dataset.folder) == ray_dataset.sources_before


def test_ray_with_two_workers_and_one_process_give_the_same_bytes(ray_dataset: Prepared, local_dataset: Path) -> None:
    assert shards(ray_dataset.out) == shards(local_dataset) != {}
    assert manifest_bytes(ray_dataset.out) == manifest_bytes(local_dataset)


def test_a_dataset_holds_only_what_its_page_says(local_dataset: Path) -> None:
    folders = {path.name for path in local_dataset.iterdir()}
    assert folders == {"shards", "refused", "manifest", "ledger", "parts", "runs"}
    assert list((local_dataset / "parts").iterdir()) == []
    refused = [row["key"] for row in rows(local_dataset) if row["reason"] == "no_speech"]
    (tar,) = (local_dataset / "refused").glob("*.tar")
    assert list(find_samples(io.BytesIO(tar.read_bytes()))) == refused


def test_status_says_how_it_ended(local_dataset: Path) -> None:
    state = read_status(str(local_dataset))
    assert state.words.startswith("finished") and state.seconds_left is None
    table = rows(local_dataset)
    assert state.seconds_kept + sum(state.seconds_by_reason.values()) == pytest.approx(
        sum(row["accounted_s"] for row in table), abs=0.05
    )
    assert sum(state.clips_by_outcome.values()) == len(table)


# --- again ---


def test_a_second_run_changes_nothing(own_copy: Path, small_inputs: Path) -> None:
    def state() -> dict:
        return {name: what for name, what in snapshot(own_copy).items() if "/runs/" not in name and ".lock" not in name}

    before = {name: data for name, (data, _) in state().items()}
    shard_times = {name: time for name, (_, time) in state().items() if name.endswith(".tar")}
    summary = run_prepare([str(small_inputs)], own_copy)
    after = state()
    assert {name: data for name, (data, _) in after.items()} == before
    assert {name: time for name, (_, time) in after.items() if name.endswith(".tar")} == shard_times
    assert summary.num_units_done == summary.num_units and summary.phase == "done"


def test_adding_sources_adds_shards_and_leaves_old_ones(
    own_copy: Path, small_inputs: Path, hostile_media: dict[str, Path]
) -> None:
    before = {name: (own_copy / name).stat().st_mtime_ns for name in shards(own_copy)}
    old = shards(own_copy)
    run_prepare([str(small_inputs), str(hostile_media["fps_50"])], own_copy)
    new = shards(own_copy)
    assert old.items() < new.items()
    assert {name: (own_copy / name).stat().st_mtime_ns for name in old} == before
    assert ("fps_50.mp4", "kept") in outcome(own_copy)


def test_sources_that_are_not_named_again_stay(own_copy: Path, small_inputs: Path) -> None:
    before = outcome(own_copy)
    run_prepare([str(small_inputs / "coded.mkv")], own_copy)
    assert outcome(own_copy) == before


def test_a_copy_under_another_name_is_a_duplicate_also_in_a_later_run(
    own_copy: Path, small_inputs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "0-first-by-name.mp4"
    shutil.copy(small_inputs / "base.mp4", copy)
    old = shards(own_copy)
    run_prepare([str(copy), str(small_inputs)], own_copy)
    assert (copy.name, "duplicate") in outcome(own_copy) and ("base.mp4", "kept") in outcome(own_copy)
    assert shards(own_copy) == old


def test_a_source_that_was_away_for_a_while_is_done_by_the_next_run(
    tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out, run_unit = tmp_path / "a.mkv", tmp_path / "dataset", UnitWorker.__call__

    def run_without_disk(self: UnitWorker, unit: Any) -> Any:
        video.rename(tmp_path / "away")
        try:
            return run_unit(self, unit)
        finally:
            (tmp_path / "away").rename(video)

    write_coded(video, [n / 25 for n in range(50)], noise(32_000))
    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "__call__", run_without_disk)
        assert not run_prepare([str(video)], out).is_complete
    assert outcome(out) == []
    assert run_prepare([str(video)], out).is_complete
    assert outcome(out) == [("a.mkv", "no_face")]


def test_urls_that_nothing_here_can_read_are_unreadable(tmp_path: Path, models: dict) -> None:
    write_coded(tmp_path / "a.mkv", [n / 25 for n in range(50)], noise(32_000))
    (tmp_path / "list.jsonl").write_text(
        '{"source_uri": "foo://x/y.mp4"}\n{"source_uri": "a\\u0000b.mp4"}\n{"source_uri": "a.mkv"}\n'
    )
    run_prepare([str(tmp_path / "list.jsonl")], tmp_path / "dataset")
    assert sorted(reason for _, reason in outcome(tmp_path / "dataset")) == ["no_face", "unreadable", "unreadable"]


def test_a_run_that_was_stopped_goes_on_after_its_folder_was_moved(
    tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "dataset"
    before.mkdir()
    write_coded(before / "a.mkv", [n / 25 for n in range(50)], noise(32_000))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UnitWorker, "__call__", stop)
        run_prepare([str(before)], out, labels=Labels(language="en"))
    before.rename(after)
    run_prepare([str(after)], out)
    found = {row["source_uri"]: (row["reason"], row["accounted_s"], row["language"]) for row in rows(out)}
    assert found[str(before / "a.mkv")] == ("no_face", 2.0, "en")  # it came in under this name, and keeps it
    assert found[str(after / "a.mkv")][0] == "duplicate"


def test_a_file_that_was_replaced_is_new_content(tmp_path: Path, models: dict) -> None:
    video, out = tmp_path / "a.mkv", tmp_path / "dataset"
    for seed, num_frames in ((1, 50), (2, 60)):
        write_coded(video, [n / 25 for n in range(num_frames)], noise(32_000, seed))
        run_prepare([str(video)], out)
    assert sorted(row["accounted_s"] for row in rows(out)) == [2.0, 2.4]
    other = tmp_path / "b.mkv"
    write_coded(other, [n / 25 for n in range(70)], noise(32_000, 3))
    run_prepare([str(tmp_path / "*.mkv")], out)
    shutil.copy(other, video)  # now a copy of another source
    run_prepare([str(tmp_path / "*.mkv")], out)
    assert ("a.mkv", "duplicate") in outcome(out)
    video.write_bytes(b"no media any more")
    run_prepare([str(tmp_path / "*.mkv")], out)
    assert ("a.mkv", "unreadable") in outcome(out)


def test_spans_of_one_file_are_accounted_for_each(tmp_path: Path, models: dict) -> None:
    write_coded(tmp_path / "a.mkv", [n / 25 for n in range(100)], noise(64_000))
    (tmp_path / "list.csv").write_text(
        "source_uri,start_s,end_s,language\na.mkv,0,1,en\na.mkv,1.6,3,zh\na.mkv,2,4,en\n"
    )
    run_prepare([str(tmp_path / "list.csv")], tmp_path / "dataset")
    found = [(row["start_s"], row["end_s"], row["reason"], row["language"]) for row in rows(tmp_path / "dataset")]
    assert sorted(found) == [(0, 1, "no_face", "en"), (1.6, 3, "no_face", "zh"), (2, 4, "duplicate", "en")]


def test_other_spans_of_a_file_may_come_in_later_runs(tmp_path: Path, models: dict) -> None:
    write_coded(tmp_path / "a.mkv", [n / 25 for n in range(100)], noise(64_000))
    for span in ("0,1", "2,3"):
        (tmp_path / "list.csv").write_text(f"source_uri,start_s,end_s\na.mkv,{span}\n")
        run_prepare([str(tmp_path / "list.csv")], tmp_path / "dataset")
    run_prepare([str(tmp_path / "a.mkv")], tmp_path / "dataset")
    found = [(row["start_s"], row["end_s"], row["reason"]) for row in rows(tmp_path / "dataset")]
    assert sorted(found) == [(0, 1, "no_face"), (0, 4, "duplicate"), (2, 3, "no_face")]


# --- refused ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"align": {"resolution": 512}}, "align.resolution was 256, now 512"),
        ({"cut": {"min_run_s": 4.0}}, "cut.min_run_s was 2.0, now 4.0"),
        ({"thresholds": {"min_quality": 50.0}}, "min_quality was 40.0, now 50.0.*lipforge pack"),
        ({"pack": {"shard_size_mb": 1.0}}, "shards of another size"),
    ],
)
def test_another_config_is_refused_and_nothing_is_mixed(
    own_copy: Path, small_inputs: Path, change: dict, words: str
) -> None:
    before = shards(own_copy), manifest_bytes(own_copy)
    plain = LOCAL.model_dump()
    for section, values in change.items():
        plain[section] |= values
    with pytest.raises(DatasetError, match=words):
        run_prepare([str(small_inputs)], own_copy, PrepareConfig.model_validate(plain))
    assert (shards(own_copy), manifest_bytes(own_copy)) == before


def test_a_dataset_of_an_older_recipe_is_refused_in_words(own_copy: Path, small_inputs: Path) -> None:
    path = own_copy / "ledger" / "dataset.json"
    record = json.loads(path.read_text())
    record["measuring"]["recipe_version"] -= 1
    record["hashes"]["config_hash"] = "of the older recipe"
    path.write_text(json.dumps(record))
    with pytest.raises(DatasetError, match=r"another version of Lipforge.*new folder.*still be queried"):
        run_prepare([str(small_inputs)], own_copy)


def test_a_dataset_whose_record_has_a_run_setting_that_is_gone_still_opens(own_copy: Path, small_inputs: Path) -> None:
    """Ignored in a dataset's record, refused in a user's settings."""
    before = shards(own_copy), manifest_bytes(own_copy)
    path = own_copy / "ledger" / "dataset.json"
    record = json.loads(path.read_text())
    for operator in ("cut", "score"):
        record["config"]["run"][operator]["disks"] = 0.5
    path.write_text(json.dumps(record))
    run_prepare([str(small_inputs)], own_copy)
    repack(str(own_copy), ["min_quality=100"], None)
    assert find_prunable(Store(str(own_copy))).clips
    repack(str(own_copy), [f"min_quality={record['config']['thresholds']['min_quality']}"], None)
    assert (shards(own_copy), manifest_bytes(own_copy)) == before
    assert json.loads(path.read_text()) == record
    with pytest.raises(ValueError, match=r"run\.cut\.disks: no such setting"):
        load_config(PrepareConfig, None, ["run.cut.disks=1"])


def test_a_dataset_that_lost_its_settings_is_not_mixed_with_others(own_copy: Path, small_inputs: Path) -> None:
    (own_copy / "ledger" / "dataset.json").unlink()
    with pytest.raises(DatasetError, match=r"lost ledger/dataset\.json"):
        run_prepare([str(small_inputs)], own_copy)


def test_two_commands_do_not_write_at_once(own_copy: Path, small_inputs: Path) -> None:
    with storage.Store(str(own_copy)).only_writer(), pytest.raises(DatasetError, match="another command"):
        run_prepare([str(small_inputs)], own_copy)


def test_mistakes_are_told_in_words_and_exit_codes(tmp_path: Path, own_copy: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, " ".join(result.output.split())

    code, output = run("prepare", str(tmp_path / "nothing.mp4"), "--out", str(tmp_path / "out"))
    assert code == 2 and "no such file or folder" in output
    (tmp_path / "empty").mkdir()
    code, output = run("prepare", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert code == 2 and "no videos found" in output
    code, output = run("prepare", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "align.resolution=300")
    assert code == 2 and "align.resolution" in output
    code, output = run("prepare", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "align.size=256")
    assert code == 2 and "align.size" in output
    assert not (tmp_path / "out").exists()
    code, output = run("status", str(tmp_path))
    assert code == 1 and "has no runs" in output
    code, output = run("pack", str(tmp_path))
    assert code == 1 and "not a dataset" in output
    for value in ("@", "[", ".nan", "null", "", "many"):
        code, output = run("pack", str(own_copy), "--set", f"min_sync_confidence={value}")
        assert code == 2 and "min_sync_confidence" in output
    code, output = run("pack", str(own_copy), "--shard-size-mb", "inf")
    assert code == 2 and "shard_size_mb" in output
    code, output = run("pack", str(tmp_path / "nowhere"))
    assert code == 1 and "not a dataset" in output and not (tmp_path / "nowhere").exists()
    code, output = run("prepare", "a" * 300 + ".mp4", "--out", str(tmp_path / "out"))
    assert code == 2 and "no such file or folder" in output
    code, output = run("prepare", str(tmp_path), "--out", "")
    assert code == 2 and "--out is empty" in output
    (tmp_path / "bad.yaml").write_bytes(b"\x94\xff")
    for option, value in (
        ("--set", "cut.max_clip_s=.inf"),
        ("--set", "cut.min_run_s=0.01"),
        ("--set", "align.resolution=@"),
        ("--config", str(tmp_path / "bad.yaml")),
    ):
        code, output = run("prepare", str(tmp_path), "--out", str(tmp_path / "out"), option, value)
        assert code == 2 and value.partition("=")[0].rpartition("/")[2] in output
    code, output = run("pack", str(own_copy), "--set", "min_beauty=3")
    assert code == 2 and "min_beauty" in output
    code, output = run("explain", str(own_copy), "nobody")
    assert code == 1 and "nobody" in output
    code, output = run("explain", str(own_copy), "base.mp4")
    assert code == 0 and "kept" in output


# --- killed and resumed ---


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the pipeline may catch it."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, lives: int, error: Callable[[], BaseException] = Killed) -> Iterator[None]:
    """Fail to write the n-th file."""
    left = lives

    def mortal(write: Callable[..., Any]) -> Callable[..., Any]:
        def dies(self: Store, *arguments: Any) -> Any:
            nonlocal left
            if not str(arguments[0]).startswith("runs/"):
                left -= 1
                if left == 0:
                    raise error()
            return write(self, *arguments)

        return dies

    with monkeypatch.context() as patch:
        for kind in ("writing", "writing_hashed", "create"):
            patch.setattr(Store, kind, mortal(getattr(Store, kind)))
        yield


@pytest.fixture
def cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut each unit once and reuse the clips: only storing them is tested."""
    process, known = CutOperator.process, CUTS

    def remembered(self: CutOperator, unit: Unit) -> CutUnit:
        if unit.unit_id not in known:
            known[unit.unit_id] = process(self, unit)
        return known[unit.unit_id]

    monkeypatch.setattr(CutOperator, "process", remembered)


CUTS: dict[str, CutUnit] = {}


def test_killed_at_any_write_the_same_command_ends_with_the_same_bytes(
    small_inputs: Path, local_dataset: Path, tmp_path: Path, cut_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run after run in one folder: each gets a little further, until one finishes."""
    out = tmp_path / "dataset"
    num_kills = 0
    for lives in range(1, 60):
        try:
            with dying(monkeypatch, lives):
                run_prepare([str(small_inputs)], out)
            break
        except Killed:
            num_kills += 1
    assert num_kills >= 5
    assert shards(out) == shards(local_dataset)
    assert manifest_bytes(out) == manifest_bytes(local_dataset)
    for folder in ("parts", "refused", "stills"):
        names = [[path.name for path in (root / folder).glob("*.tar")] for root in (local_dataset, out)]
        assert names[0] == names[1]


def test_a_full_disk_is_told_in_words_and_loses_nothing(
    small_inputs: Path, local_dataset: Path, tmp_path: Path, cut_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    full = lambda: OSError(errno.ENOSPC, "No space left on device")  # noqa: E731
    with (
        dying(monkeypatch, 6, full),
        pytest.raises(DatasetError, match=r"No space left on device.*run the same command"),
    ):
        run_prepare([str(small_inputs)], out)
    run_prepare([str(small_inputs)], out)
    assert shards(out) == shards(local_dataset)


# --- repacked ---


def test_other_thresholds_need_no_models_and_come_back_to_the_same_bytes(
    own_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept_before = shards(own_copy), outcome(own_copy)
    original = json.loads((own_copy / "ledger" / "dataset.json").read_text())["config"]["thresholds"]
    monkeypatch.setattr("lipforge.pipeline.recipe.ScoreOperator.process", None)
    repack(str(own_copy), ["min_speech_ratio=0", "min_sync_confidence=-100", "max_av_offset_frames=15"], None)
    assert ("music.mp4", "kept") in outcome(own_copy)
    assert shards(own_copy).items() > before.items()
    looser = shards(own_copy)
    thresholds, *_ = repack(str(own_copy), ["min_quality=100"], None)
    assert thresholds.min_quality == 100 and shards(own_copy) == looser
    assert not [row for row in rows(own_copy) if row["status"] == "kept"]
    numbers = [f"{name}={value}" for name, value in original.items() if not name.endswith("_model")]
    repack(str(own_copy), numbers, None)
    assert outcome(own_copy) == kept_before and shards(own_copy) == looser


def test_prune_drops_refused_media_only_and_a_looser_threshold_then_says_so(own_copy: Path) -> None:
    before = shards(own_copy)
    (refused,) = (row for row in rows(own_copy) if row["reason"] == "no_speech")
    assert refused["shard"].startswith("refused/")
    prune(str(own_copy))
    assert not list((own_copy / "refused").iterdir())
    (pruned,) = (row for row in rows(own_copy) if row["reason"] == "no_speech")
    place = (pruned["sample_offset"], pruned["sample_size"], pruned["key"])
    still = read_still_at(LocalFileSystem(), str(own_copy / pruned["shard"]), *place)
    assert cv2.imdecode(np.frombuffer(still, np.uint8), cv2.IMREAD_COLOR) is not None
    assert shards(own_copy) == before
    with pytest.raises(DatasetError, match="their media is gone: it was pruned"):
        repack(str(own_copy), ["min_speech_ratio=0", "min_sync_confidence=-100", "max_av_offset_frames=15"], None)
    assert shards(own_copy) == before
    repack(str(own_copy), [], None)
    assert shards(own_copy) == before


def test_prune_keeps_the_clips_of_a_run_that_was_stopped_before_packing(
    small_inputs: Path, local_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lipforge.pipeline.run.publish", stop)
        run_prepare([str(small_inputs)], tmp_path / "out")
    prune(str(tmp_path / "out"))
    run_prepare([str(small_inputs)], tmp_path / "out")
    assert shards(tmp_path / "out") == shards(local_dataset)


def test_labels_make_folders_of_shards(tmp_path: Path, small_inputs: Path, models: dict) -> None:
    folder = tmp_path / "in" / "zh" / "anna"
    folder.mkdir(parents=True)
    shutil.copy(small_inputs / "base.mp4", folder)
    labels = Labels(path_template="{language}/{speaker}/")
    summary = run_prepare([str(tmp_path / "in")], tmp_path / "out", labels=labels)
    assert "path template {language}/{speaker}/ matches 1 of 1 file" in summary.notes
    (row,) = rows(tmp_path / "out")
    assert (row["language"], row["language_source"], row["speaker"]) == ("zh", "path", "anna")
    assert [name.rpartition("-")[0] for name in shards(tmp_path / "out")] == ["shards/zh/zh"]
