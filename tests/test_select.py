"""Choosing clips: the requested hours, of the right clips, the same every time, with speakers kept apart."""

import json
import os
import random
import re
from collections import defaultdict
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest import manifest
from lipforge.datasets_manifest.cli import app
from lipforge.datasets_manifest.manifest import ManifestError
from lipforge.datasets_manifest.select.choose import choose, select
from lipforge.datasets_manifest.select.pools import is_val_speaker
from lipforge.datasets_manifest.select.request import NotEnoughDataError, Request
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, read_selection, selection_request
from lipforge.pipeline.config import Thresholds
from lipforge.train.config import Stage1Config, Stage2Config, SyncNetConfig, load_preset, presets
from tests.manifests import clip, dataset, refused, varied

NEEDED = ["selection=s.parquet", "run_dir=runs/a"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dataset(tmp_path_factory.mktemp("mixed"), varied(2000))


def hours_of(rows: pa.Table, split: str = "train") -> float:
    return sum(row["duration_s"] for row in rows.to_pylist() if row["split"] == split) / 3600


def speakers_of(rows: pa.Table, split: str) -> set[str]:
    return {row["speaker"] or row["source_id"] for row in rows.to_pylist() if row["split"] == split}


# --- hours


@pytest.mark.parametrize("hours", [0.01, 0.1, 0.5, 1.234, 3.0])
@pytest.mark.parametrize("order", ["random", "sync", "quality"])
def test_hours_are_within_one_percent_or_one_clip(mixed: str, hours: float, order: str) -> None:
    rows = select([mixed], hours=hours, order=order, val_hours=0.05)
    for split, asked in (("train", hours), ("val", 0.05)):
        assert abs(hours_of(rows, split) - asked) <= max(0.01 * asked, 9.4 / 3600)


def test_without_hours_all_that_passes_is_taken(mixed: str) -> None:
    assert select([mixed]).num_rows == 2000


def test_every_column_comes_along_with_the_dataset_it_is_from(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(1, detail="as stored", sample_offset=512)])
    rows = select([root])
    assert rows.schema.equals(SELECTION_COLUMNS)
    assert rows.to_pylist() == [
        {
            **dict.fromkeys(SELECTION_COLUMNS.names),
            **clip(1, detail="as stored", sample_offset=512),
            "dataset": root,
            "split": "train",
        }
    ]


def test_no_speaker_exceeds_the_cap(mixed: str) -> None:
    rows = select([mixed], max_hours_per_speaker=0.03)
    spoken = defaultdict(float)
    for row in rows.to_pylist():
        spoken[row["speaker"]] += row["duration_s"]
    assert len(spoken) == 60
    assert max(spoken.values()) <= 0.03 * 3600 + 1e-6
    assert min(spoken.values()) > 0.03 * 3600 - 9.4


def test_without_a_speaker_the_source_is_capped_and_a_note_says_so(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(number, speaker=None) for number in range(40)])  # 4 clips of 6 s a source
    chosen = choose(Request((root,), max_hours_per_speaker=12.5 / 3600))
    assert chosen.table.num_rows == 20
    assert any("20 of 20 clips have no speaker" in note for note in chosen.notes)
    assert selection_request(chosen.table)["gave"]["train"]["speakers"] == 10


# --- which clips


def test_order_takes_the_best_first(mixed: str) -> None:
    everything = select([mixed]).to_pylist()
    for order, column in (("sync", "sync_confidence"), ("quality", "quality")):
        taken = select([mixed], hours=0.5, order=order)[column].to_pylist()
        assert taken == sorted((row[column] for row in everything), reverse=True)[: len(taken)]


def test_random_is_another_choice_for_another_seed_and_has_no_favourites(mixed: str) -> None:
    first, second = (set(select([mixed], hours=1.0, seed=seed)["key"].to_pylist()) for seed in (1, 2))
    assert first != second
    confidence = select([mixed], hours=1.0)["sync_confidence"].to_numpy().mean()
    assert abs(confidence - 5.0) < 0.4  # of all clips: 5.0, and 0.1 for the error of the mean


def test_each_threshold_takes_its_own_limit_in(tmp_path: Path) -> None:
    for option, column in (
        ("min_sync", "sync_confidence"),
        ("min_quality", "quality"),
        ("min_face_px", "face_size_px"),
        ("min_clip_s", "duration_s"),
    ):
        values = [3.1, 3.0999, 40.0, *([] if column == "duration_s" else [None, float("nan")])]
        root = dataset(tmp_path / column, [clip(number, **{column: value}) for number, value in enumerate(values)])
        assert sorted(select([root], **{option: 3.1})[column].to_pylist()) == pytest.approx([3.1, 40.0])


def test_the_share_outside_is_an_upper_limit_and_what_was_refused_for_it_is_explained(tmp_path: Path) -> None:
    values = [0.0, 0.1, 0.1001, None, float("nan")]
    rows = [clip(number, outside_ratio=value) for number, value in enumerate(values)]
    rows += [refused(10, "face_cut_off", outside_ratio=0.3), refused(11, "face_cut_off", quality=None)]
    root = dataset(tmp_path, rows)
    assert sorted(select([root], max_outside=0.1)["outside_ratio"].to_pylist()) == pytest.approx([0.0, 0.1])
    (note,) = (note for note in choose(Request((root,), max_outside=0.4)).notes if "pack" in note)
    assert "up to 6.0 s more pass" in note and "--set max_outside_ratio=0.4" in note
    with pytest.raises(ValueError, match="max_outside is nan"):
        select([root], max_outside=float("nan"))


def test_clips_that_cannot_hold_two_windows_are_not_taken_and_a_note_says_so(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(n, num_frames=n, duration_s=n / 25) for n in (24, 31, 32, 33, 150)])
    chosen = choose(Request((root,)))
    assert sorted(chosen.table["num_frames"].to_pylist()) == [32, 33, 150]
    assert [note for note in chosen.notes if "--window-frames" in note] == [
        "2 clips (2.2 s) are too short for two windows of 16 frames (--window-frames 16): trainers with windows of "
        "that length cannot use them"
    ]
    assert select([root], window_frames=12).num_rows == 5
    assert select([root], window_frames=17)["num_frames"].to_pylist() == [150]
    with pytest.raises(NotEnoughDataError, match=r"6.0 s without --window-frames 80"):
        select([root], window_frames=80, min_clip_s=4)


def test_what_a_trainer_with_a_shipped_preset_refuses_is_not_selected() -> None:
    trainers = (Stage1Config, Stage2Config, SyncNetConfig)
    longest = max(load_preset(kind, name, NEEDED).num_frames for kind in trainers for name in presets(kind))
    assert longest == Request(("dataset",)).window_frames
    assert 2 * longest / 25 <= Thresholds().min_clip_s


def test_languages_ignore_case_and_take_their_regions_along(mixed: str, tmp_path: Path) -> None:
    assert set(select([mixed], languages=["ZH"])["language"].to_pylist()) == {"zh", "zh-CN", "zh-TW"}
    assert set(select([mixed], languages=["zh-cn", "hi"])["language"].to_pylist()) == {"zh-CN", "hi"}
    root = dataset(
        tmp_path, [clip(1, language=None), clip(2, language="und"), clip(3, language=""), clip(4, language="hin")]
    )
    assert select([root], languages=["und"]).num_rows == 3
    with pytest.raises(NotEnoughDataError, match="Languages here: und"):
        select([root], languages=["zh"])


def test_languages_of_old_datasets_are_found_in_any_spelling(tmp_path: Path) -> None:
    labels = ["en", "eng", "EN-us", "en_GB", "zh_CN", "cmn", "iw", "xx", None]
    root = dataset(tmp_path, [clip(number, language=label) for number, label in enumerate(labels)])
    for wanted in (["en"], ["eng"], ["EN", "eng", "en_us"]):
        table = select([root], languages=wanted)
        assert sorted(table["language"].to_pylist()) == ["en", "en", "en-GB", "en-US"], "one spelling in the selection"
    assert select([root], languages=["en_us"])["language"].to_pylist() == ["en-US"]
    assert sorted(select([root], languages=["zho"])["language"].to_pylist()) == ["cmn", "zh-CN"]
    assert select([root], languages=["he"]).num_rows == select([root], languages=["und"]).num_rows == 1
    assert select([root])["language"].null_count == 1
    with pytest.raises(NotEnoughDataError, match=r"Languages here: en 12.0 s, .*xx 6.0 s"):
        select([root], languages=["fr"])
    same = [select([root], languages=wanted) for wanted in (["eng", "iw"], ["he", "EN", "heb"])]
    assert same[0].equals(same[1], check_metadata=True)


def test_a_language_that_is_none_is_refused(mixed: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"language 'english' is not a language code .*; did you mean en\?"):
        select([mixed], languages=["zh", "english"])
    code, text = run(mixed, "--language", "jp", "--out", str(tmp_path / "a.parquet"))
    assert code == 2 and "did you mean ja?" in text and not list(tmp_path.glob("a.*"))


def test_where_is_a_condition_over_all_columns(mixed: str) -> None:
    rows = select([mixed], where="Quality between 50 and 60 and source_uri like '%/1__.mp4' -- mine").to_pylist()
    expected = [
        row
        for row in select([mixed]).to_pylist()
        if 50 <= row["quality"] <= 60 and re.fullmatch(r".*/1..\.mp4", row["source_uri"])
    ]
    assert {row["key"] for row in rows} == {row["key"] for row in expected} and expected


def test_excluded_keys_do_not_come_again(mixed: str, tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2):
        paths.append(str(tmp_path / f"{seed}.parquet"))
        pq.write_table(select([mixed], hours=0.7, seed=seed).select(["key"]), paths[-1])
    left = select([mixed], exclude=paths)
    gone = {key for path in paths for key in pq.read_table(path)["key"].to_pylist()}
    assert left.num_rows == 2000 - len(gone)
    assert not gone & set(left["key"].to_pylist())


def test_only_clips_in_shards_are_taken_and_a_looser_threshold_is_explained(tmp_path: Path) -> None:
    rows = [clip(number) for number in range(10)]
    rows += [refused(number, "low_sync_confidence", sync_confidence=2.5) for number in range(10, 15)]
    rows += [refused(number, "low_quality", quality=35.0) for number in range(15, 20)]
    root = dataset(tmp_path, rows)
    chosen = choose(Request((root,), min_sync=2.0))
    assert chosen.table.num_rows == 10
    assert [note for note in chosen.notes if "pack" in note] == [
        "up to 30.0 s more pass, but the dataset's own threshold refused them (low_sync_confidence) and "
        "they are in no shard: lipforge pack DATASET "
        "--set min_sync_confidence=2 brings back those that its other thresholds keep"
    ]
    assert not [note for note in choose(Request((root,), min_sync=3.0)).notes if "pack" in note]
    rows = [refused(number, "too_short", duration_s=2.4, num_frames=60) for number in range(5)]
    rows += [refused(5, "too_short", duration_s=1.9, num_frames=47, quality=None)]  # never cut: nothing to bring back
    short = dataset(tmp_path / "short", [*rows, clip(6)])
    (note,) = choose(Request((short,), min_clip_s=1.5)).notes
    assert "up to 12.0 s more pass" in note and "--set min_clip_s=1.5" in note
    with pytest.raises(NotEnoughDataError, match="--set min_quality=30"):
        select([root], hours=1, min_quality=30.0)


def test_scores_of_different_models_are_not_compared(tmp_path: Path) -> None:
    rows = [
        clip(number, sync_model="a" if number < 7 else "b", quality_model=None if number < 2 else "q")
        for number in range(10)
    ]
    root = dataset(tmp_path, rows)
    for wanted in ({"min_sync": 1.0}, {"order": "sync"}):
        with pytest.raises(
            ValueError, match=r"different models: a \(7 clips\), b \(3 clips\).*--where \"sync_model = 'a'\""
        ):
            select([root], **wanted)
        assert select([root], where="sync_model = 'a'", **wanted).num_rows == 7
    with pytest.raises(ValueError, match="no name"):
        select([root], min_quality=1.0)
    assert select([root]).num_rows == 10


# --- always the same


def test_neither_rows_files_nor_datasets_order_matters(tmp_path: Path) -> None:
    wanted = {"languages": ["zh"], "hours": 0.4, "val_hours": 0.05, "max_hours_per_speaker": 0.05, "seed": 7}
    first, second = (
        varied(1500),
        [dict(row, key=f"f{row['key'][1:]}") for row in varied(500, 1)],
    )
    a, b = dataset(tmp_path / "a", first), dataset(tmp_path / "b", second)
    once = select([a, b], **wanted)
    assert select([b, a, f"{tmp_path}/./a"], **wanted).equals(once, check_metadata=True)
    # Unsorted rows, in other files and row groups.
    rows = manifest.read_manifest(a)
    mixed_up = rows.take(pa.array(random.Random(0).sample(range(1500), 1500)))
    for path in (tmp_path / "a" / "manifest").iterdir():
        path.unlink()
    for number in range(3):
        pq.write_table(
            mixed_up.slice(number * 600, 600),
            tmp_path / "a" / "manifest" / f"part-{number:05d}.parquet",
            row_group_size=100,
        )
    assert select([a, b], **wanted).equals(once, check_metadata=True)


def test_a_clip_in_two_datasets_counts_once(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a", [clip(number) for number in range(10)])
    b = dataset(tmp_path / "b", [clip(number, language="zh") for number in range(5, 15)])
    chosen = choose(Request((b, a)))
    assert sorted(chosen.table["key"].to_pylist()) == [f"{number:032x}" for number in range(15)]
    assert {row["dataset"] for row in chosen.table.to_pylist() if int(row["key"], 16) < 10} == {a}
    assert "5 clips are in more than one dataset: each counts once" in chosen.notes
    # What is not asked for does not hide its copy.
    assert select([a, b], languages=["zh"]).num_rows == 10


# --- validation


def test_speakers_of_validation_are_not_in_training(mixed: str) -> None:
    rows = select([mixed], hours=1.5, val_hours=0.2)
    train, val = speakers_of(rows, "train"), speakers_of(rows, "val")
    assert val and train and not val & train
    assert all(is_val_speaker(f"speaker:{name}", 0.1) for name in val)


@pytest.mark.parametrize("seed", range(5))
def test_a_growing_dataset_moves_nobody_between_validation_and_training(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows: list[dict] = []
    ever: dict[str, set[str]] = {"train": set(), "val": set()}
    for step in range(8):
        for _ in range(rng.randrange(20, 300)):
            name = rng.choice([f"person-{rng.randrange(10 + 40 * step)}", None])
            rows.append(clip(len(rows), speaker=name, duration_s=rng.uniform(5, 10), sync_confidence=rng.uniform(1, 9)))
        root = dataset(tmp_path / str(step), rows)
        found = select(
            [root],
            hours=rng.choice([None, 0.05, 0.2]),
            val_hours=rng.choice([0.01, 0.05]),
            order=rng.choice(["random", "sync"]),
            seed=step,
            max_hours_per_speaker=rng.choice([None, 0.02]),
            min_sync=rng.choice([None, 4.0]),
            allow_less=True,
        )
        for split, speakers in ever.items():
            speakers.update(speakers_of(found, split))
    assert ever["val"] and ever["train"] and not ever["val"] & ever["train"]


def test_a_larger_share_only_adds_speakers_to_validation() -> None:
    names = [f"speaker:{number}" for number in range(4000)]
    small, large = ({name for name in names if is_val_speaker(name, share)} for share in (0.1, 0.25))
    assert small < large
    assert 0.08 < len(small) / 4000 < 0.12 and 0.22 < len(large) / 4000 < 0.28


def test_too_little_validation_is_said_with_what_to_do(mixed: str) -> None:
    with pytest.raises(NotEnoughDataError, match=r"validation data: asked for 2 h.*\n.*--val-share") as caught:
        select([mixed], hours=1, val_hours=2)
    (enough,) = re.findall(r"--val-share ([0-9.]+) would be enough", str(caught.value))
    assert hours_of(select([mixed], hours=0.5, val_hours=2, val_share=float(enough)), "val") == pytest.approx(
        2, abs=0.02
    )
    with pytest.raises(NotEnoughDataError, match="validation"):
        select([mixed], hours=0.5, val_hours=2, val_share=float(enough) - 0.002)
    with pytest.raises(NotEnoughDataError, match="all speakers together would not be enough"):
        select([mixed], hours=1, val_hours=2000)
    assert hours_of(select([mixed], hours=1, val_hours=1, val_share=0.5), "val") == pytest.approx(1, abs=0.01)


# --- not enough


def test_too_little_says_what_there_is_and_what_each_filter_costs(tmp_path: Path) -> None:
    rows = [
        clip(number, sync_confidence=2.0 if number < 60 else 5.0, quality=30.0 if 50 <= number < 80 else 60.0)
        for number in range(100)
    ]
    root = dataset(tmp_path, rows)
    with pytest.raises(NotEnoughDataError) as caught:
        select([root], hours=1, min_sync=4, min_quality=50, languages=["hi"])
    assert str(caught.value).splitlines() == [
        "not enough training data: asked for 1 h, found 2 min 0 s.",
        "Without one of the filters there would be:",
        "  7 min 0 s without --min-sync 4",
        "  4 min 0 s without --min-quality 50",
        "--allow-less accepts what there is.",
    ]
    assert select([root], hours=1, min_sync=4, min_quality=50, allow_less=True).num_rows == 20


def test_the_cap_and_the_split_count_as_filters_too(mixed: str) -> None:
    with pytest.raises(NotEnoughDataError, match=r"without --max-hours-per-speaker 0.01\n(.*\n)*.*without --val-hours"):
        select([mixed], hours=3, val_hours=0.01, max_hours_per_speaker=0.01)


def test_nothing_at_all_is_an_error_even_when_less_is_allowed(mixed: str) -> None:
    with pytest.raises(NotEnoughDataError, match="without --min-sync 99"):
        select([mixed], min_sync=99, allow_less=True)


# --- wrong requests and broken manifests


@pytest.mark.parametrize(
    "wanted",
    [
        {"hours": -1.0},
        {"hours": 0.0},
        {"hours": float("nan")},
        {"hours": float("inf")},
        {"val_hours": -0.5},
        {"val_hours": float("nan")},
        {"val_share": 1.0},
        {"max_hours_per_speaker": 0.0},
        {"min_sync": float("nan")},
        {"min_clip_s": float("inf")},
        {"window_frames": 0},
        {"order": "best"},
        {"languages": "zh"},
    ],
)
def test_what_cannot_be_meant_is_refused(mixed: str, wanted: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wanted))):
        select([mixed], **wanted)


@pytest.mark.parametrize("duration_s", [-3.0, 0.0, float("nan"), None])
def test_a_clip_without_a_length_is_a_damaged_manifest(tmp_path: Path, duration_s: float | None) -> None:
    root = dataset(tmp_path, [clip(1), clip(2, duration_s=duration_s)])
    with pytest.raises(ManifestError, match=f"{2:032x} has duration_s"):
        select([root])


def test_two_rows_with_one_key_are_a_damaged_manifest(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(1), clip(1, start_s=9.0)])
    with pytest.raises(ManifestError, match="several rows for one key"):
        select([root])


def test_an_empty_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughDataError, match="no kept clip in a shard"):
        select([dataset(tmp_path, [])])


# --- the command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["select", *arguments])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_command_writes_the_selection_and_its_chart(mixed: str, tmp_path: Path) -> None:
    out = tmp_path / "$(touch pwned) 'x' [1].parquet"
    arguments = (
        mixed,
        "--language",
        "zh",
        "--language",
        "hi",
        "--hours",
        "0.5",
        "--val-hours",
        "0.05",
        "--min-sync",
        "2",
        "--out",
        str(out),
    )
    code, text = run(*arguments)
    assert code == 0, text
    assert "train 30 min 0 s" in text and "val 2 min 59 s" in text and "clips by language: " in text and "zh-CN" in text
    about = selection_request(read_selection(str(out)))
    assert about["request"]["languages"] == ["hi", "zh"] and about["gave"]["train"]["hours"] == pytest.approx(
        0.5, abs=0.003
    )
    chart = out.with_suffix(".svg").read_text()
    assert chart.startswith("<svg ") and "Sync (syncnet_v2)" in chart and 'class="val"' in chart
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet", ".svg"]
    before = out.read_bytes()
    assert run(*arguments)[0] == 0  # the same again is no conflict
    assert out.read_bytes() == before
    code, text = run(mixed, "--hours", "0.4", "--out", str(out))
    assert code == 1 and "exists and holds another selection" in text and out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--hours", "50"], 1, "not enough training data: asked for 50 h"),
        (["--hours", "-1"], 2, "expected more than 0"),
        (["--where", "1=1; COPY manifest TO 'x'"], 2, "--where is one condition"),
        (["--exclude", "nowhere.parquet"], 1, "nothing to exclude at nowhere.parquet"),
        (["--exclude", __file__], 2, "cannot be excluded"),
        (["--out", "selection.txt"], 2, "ends in .parquet"),
        (["--out", f"{__file__}/x.parquet"], 1, "test_select.py is in the way: a folder is needed there"),
    ],
)
def test_command_says_what_is_wrong_and_writes_nothing(
    mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in arguments else ["--out", "x.parquet"]
    code, text = run(mixed, *arguments, *out)
    assert code == exit_code and words in text
    assert not list(tmp_path.iterdir())


def test_command_names_a_missing_dataset(tmp_path: Path) -> None:
    code, text = run(str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.parquet"))
    assert code == 1 and "no manifest in" in text


def test_the_example_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "manifest.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "dataset", varied(1500))
    exec(example, {})
    assert "'train': {'clips'" in capsys.readouterr().out and read_selection("hi.parquet", "val").num_rows


def test_command_writes_to_a_url(mixed: str) -> None:
    code, text = run(mixed, "--hours", "0.1", "--out", "memory://lists/a.parquet")
    assert code == 0 and "chart: memory://lists/a.svg" in text
    assert read_selection("memory://lists/a.parquet").num_rows
    fsspec.filesystem("memory").rm("/lists", recursive=True)


def test_a_folder_that_no_text_can_name_is_refused() -> None:
    with pytest.raises(ValueError, match="not valid UTF-8"):
        select([os.fsdecode(b"data\xff")])


def test_medians_of_two_models_are_not_shown_as_one(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", [clip(1, sync_model="a"), clip(2, sync_model="b")])
    code, text = run(root, "--out", str(tmp_path / "x.parquet"))
    assert code == 0 and "(models differ) 60.0" in text


def test_request_is_stored_in_one_form(mixed: str) -> None:
    tables = [select([mixed], languages=names, hours=0.1) for names in (["zh", "HI"], ["hi", "ZH"])]
    assert tables[0].equals(tables[1], check_metadata=True)
    about = json.loads(tables[0].schema.metadata[b"lipforge.selection"])
    assert about["version"] == 1 and about["request"]["datasets"] == [mixed] and about["request"]["hours"] == 0.1


def test_a_chart_of_something_else_is_not_overwritten(mixed: str, tmp_path: Path) -> None:
    (tmp_path / "n.svg").write_text("mine")
    for option in ([], ["--overwrite"]):
        code, text = run(mixed, "--hours", "0.1", "--out", str(tmp_path / "n.parquet"), *option)
        assert code == 1 and "n.svg exists" in text and "is no chart of a selection" in text
    assert [path.name for path in tmp_path.iterdir()] == ["n.svg"] and (tmp_path / "n.svg").read_text() == "mine"


def test_overwrite_replaces_a_selection_and_its_chart(mixed: str, tmp_path: Path) -> None:
    out, fresh = tmp_path / "a.parquet", tmp_path / "fresh.parquet"
    little, more = [mixed, "--hours", "0.1"], [mixed, "--hours", "0.2", "--min-sync", "2"]
    assert run(*more, "--out", str(fresh))[0] == 0

    def files(path: Path) -> list[bytes]:
        return [path.read_bytes(), path.with_suffix(".svg").read_bytes()]

    assert run(*little, "--out", str(out), "--overwrite")[0] == 0  # nothing is there
    first = files(out)
    assert run(*little, "--out", str(out), "--overwrite")[0] == 0 and files(out) == first
    code, text = run(*more, "--out", str(out))
    assert code == 1 and "replace it with --overwrite" in text and files(out) == first
    for _ in range(2):
        assert run(*more, "--out", str(out), "--overwrite")[0] == 0 and files(out) == files(fresh)
    assert run(*more, "--out", str(out))[0] == 0 and files(out) == files(fresh)
    assert run(*little, "--out", str(out), "--overwrite")[0] == 0 and files(out) == first
    out.with_suffix(".svg").unlink()
    assert run(*more, "--out", str(out), "--overwrite")[0] == 0 and files(out) == files(fresh)
    out.unlink()  # its chart is left
    code, text = run(*little, "--out", str(out))
    assert code == 1 and "a.svg exists" in text and "replace it with --overwrite" in text and not out.exists()
    assert run(*little, "--out", str(out), "--overwrite")[0] == 0 and files(out) == first


@pytest.mark.parametrize("kind", ["text", "parquet", "half", "folder", "foreign chart"])
def test_overwrite_replaces_nothing_else(mixed: str, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "a.parquet"
    assert run(mixed, "--hours", "0.1", "--out", str(out))[0] == 0
    if kind == "text":
        out.write_text("mine")
    elif kind == "parquet":
        pq.write_table(pa.table({"key": ["mine"]}), out)
    elif kind == "half":
        out.write_bytes(out.read_bytes()[:-9])
    elif kind == "folder":
        out.unlink()
        out.mkdir()
    else:
        out.with_suffix(".svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><text>mine</text></svg>')
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for option in ([], ["--overwrite"]):
        code, text = run(mixed, "--hours", "0.2", "--out", str(out), *option)
        assert code == 1 and ("is no chart of a selection" if kind == "foreign chart" else "is no selection") in text
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_overwrite_replaces_a_selection_of_another_version(mixed: str, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": ["x"]}).replace_schema_metadata({"lipforge.selection": '{"version": 0}'}), out)
    code, text = run(mixed, "--hours", "0.1", "--out", str(out))
    assert code == 1 and "holds another selection" in text
    assert run(mixed, "--hours", "0.1", "--out", str(out), "--overwrite")[0] == 0 and read_selection(str(out)).num_rows


def test_overwrite_keeps_what_exclude_names(mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(mixed, "--hours", "0.1", "--out", "a.parquet")[0] == 0
    before = Path("a.parquet").read_bytes()
    out = str(tmp_path / "a.parquet")
    code, text = run(mixed, "--hours", "0.1", "--exclude", "a.parquet", "--out", out, "--overwrite")
    assert code == 2 and "which --exclude names" in text and Path("a.parquet").read_bytes() == before


def test_overwrite_at_a_url(mixed: str) -> None:
    for hours in ("0.1", "0.2"):
        assert run(mixed, "--hours", hours, "--out", "memory://over/a.parquet", "--overwrite")[0] == 0
    about = selection_request(read_selection("memory://over/a.parquet"))
    assert about["request"]["hours"] == 0.2
    fsspec.filesystem("memory").rm("/over", recursive=True)


def test_a_share_without_hours_for_validation_is_refused(mixed: str, tmp_path: Path) -> None:
    code, text = run(mixed, "--val-share", "0.3", "--out", str(tmp_path / "n.parquet"))
    assert code == 2 and "--val-share needs --val-hours" in text
