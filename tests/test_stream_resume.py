"""The stream resumes exactly on any number of ranks and workers; damaged samples do not disturb it."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, read_clip, sample_bytes
from lipforge.train.stream import batches
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError, decode_fields
from lipforge.train.stream.order import ClipWindow
from lipforge.train.stream.stream import SampleStream
from tests.stream_clips import coded_dataset, key_of, select

NUM_CLIPS = 23
"""Not a multiple of any global batch."""
Seen = tuple[int, str, int, int, str]
"""Position, key, start, reference start, hash of the target."""


@dataclass(frozen=True)
class Data:
    root: Path
    selection: str
    rows: pa.Table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("resume")
    rows = coded_dataset(folder / "dataset", [10, 8, 5], num_frames=20)
    return Data(folder / "dataset", select(folder / "all.parquet", rows), rows)


def config_of(data: Data, **settings: Any) -> StreamConfig:
    defaults = {"selection": data.selection, "num_frames": 5, "batch_size": 3, "num_workers": 0, "seed": 11}
    return StreamConfig.model_validate({**defaults, **settings})


def seen_of(batch: dict[str, Any]) -> list[Seen]:
    return [
        (int(position), key, int(start), int(reference), hashlib.sha256(target.numpy().tobytes()).hexdigest())
        for position, key, start, reference, target in zip(
            batch["position"], batch["key"], batch["start"], batch["reference_start"], batch["target"], strict=True
        )
    ]


def take(config: StreamConfig, num_ranks: int, num_batches: int, state: dict | None = None) -> tuple[list[Seen], dict]:
    """What all ranks see in so many batches, in stream order, and the state after them."""
    seen: list[Seen] = []
    states = []
    for rank in range(num_ranks):
        stream = SampleStream(config, rank, num_ranks)
        if state is not None:
            stream.load_state_dict(json.loads(json.dumps(state)))
        batches = iter(stream)
        for _ in range(num_batches):
            seen += seen_of(next(batches))
        states.append(stream.state_dict())
    assert all(other == states[0] for other in states)
    return sorted(seen), states[0]


@pytest.fixture(scope="module")
def straight(data: Data) -> list[Seen]:
    """Four epochs in one process."""
    return take(config_of(data, batch_size=NUM_CLIPS), 1, 4)[0]


@dataclass(frozen=True)
class Case:
    stop_batch: int
    ranks: int
    workers: int
    new_ranks: int
    new_workers: int
    batch_size: int


def cases() -> list[Case]:
    rng = random.Random(4)
    return [
        Case(
            rng.randrange(5),
            rng.randint(1, 4),
            rng.randrange(3),
            rng.randint(1, 4),
            rng.randrange(3),
            rng.randint(1, 3),
        )
        for _ in range(50)
    ]


def check(case: Case, data: Data, straight: list[Seen]) -> None:
    """k batches, then a new stream with other ranks and workers until the third epoch: the same as without a break."""
    config = config_of(data, num_workers=case.workers, batch_size=case.batch_size)
    seen, state = take(config, case.ranks, case.stop_batch)
    assert len(json.dumps(state)) < 300
    num_left = 60 - len(seen)
    num_batches = -(-num_left // (case.new_ranks * case.batch_size))
    more, _ = take(config.model_copy(update={"num_workers": case.new_workers}), case.new_ranks, num_batches, state)
    assert seen + more == straight[: len(seen) + len(more)]


@pytest.fixture(scope="module")
def decode_once() -> Callable[..., dict[str, np.ndarray]]:
    """In the place of `decode_fields`: the same bytes and window are decoded once for all cases."""
    known: dict[Any, dict[str, np.ndarray]] = {}

    def decode(members: dict[str, bytes], clip: ClipWindow, *how: Any) -> dict[str, np.ndarray]:
        place = (*members.items(), clip, repr(how))
        if place not in known:
            known[place] = decode_fields(members, clip, *how)
        return dict(known[place])

    return decode


@pytest.mark.parametrize("case", cases(), ids=str)
def test_resuming_is_exact(
    case: Case, data: Data, straight: list[Seen], decode_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a DataLoader are left out here, as they only decide who computes a batch."""
    monkeypatch.setattr(batches, "decode_fields", decode_once)
    check(Case(case.stop_batch, case.ranks, 0, case.new_ranks, 0, case.batch_size), data, straight)


@pytest.mark.parametrize("case", cases()[:3], ids=str)
def test_resuming_is_exact_with_real_workers(case: Case, data: Data, straight: list[Seen]) -> None:
    check(case, data, straight)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases()[3:], ids=str)
def test_resuming_is_exact_with_real_workers_in_all_cases(case: Case, data: Data, straight: list[Seen]) -> None:
    check(case, data, straight)


def test_an_epoch_has_each_sample_once_and_epochs_differ(data: Data, straight: list[Seen]) -> None:
    epochs = [straight[first : first + NUM_CLIPS] for first in range(0, 4 * NUM_CLIPS, NUM_CLIPS)]
    for epoch in epochs:
        assert sorted(key for _, key, *_ in epoch) == sorted(data.rows["key"].to_pylist())
    assert len({tuple(key for _, key, *_ in epoch) for epoch in epochs}) == 4
    starts = [{key: (start, reference) for _, key, start, reference, _ in epoch} for epoch in epochs]
    assert sum(starts[0][key] != starts[1][key] for key in starts[0]) > 0.8 * NUM_CLIPS


def test_the_state_is_of_what_was_taken_and_not_of_what_workers_read_ahead(data: Data) -> None:
    stream = SampleStream(config_of(data, num_workers=2), 0, 1)
    batches = iter(stream)
    for number in range(1, 4):
        next(batches)
        assert (stream.state_dict()["epoch"], stream.state_dict()["num_consumed"]) == (0, 3 * number)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_trainers_random_numbers_are_left_alone(data: Data, num_workers: int) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    next(iter(SampleStream(config_of(data, num_workers=num_workers))))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_moved_dataset_and_reordered_rows_resume_and_other_ones_do_not(data: Data, tmp_path: Path) -> None:
    _, state = take(config_of(data), 1, 2)
    (tmp_path / "moved").symlink_to(data.root)
    moved = pa.Table.from_pylist(
        [{**row, "dataset": str(tmp_path / "moved")} for row in reversed(data.rows.to_pylist())], data.rows.schema
    )
    seen, _ = take(config_of(data, selection=select(tmp_path / "moved.parquet", moved)), 1, 1, state)
    assert seen == take(config_of(data), 1, 1, state)[0]
    fewer = config_of(data, selection=select(tmp_path / "fewer.parquet", data.rows.slice(1)))
    with pytest.raises(ValueError, match="selection"):
        SampleStream(fewer).load_state_dict(state)
    with pytest.raises(ValueError, match="seed was 11 and is 12"):
        SampleStream(config_of(data, seed=12)).load_state_dict(state)


def test_a_state_that_is_none_is_refused(data: Data) -> None:
    stream = SampleStream(config_of(data))
    state = stream.state_dict()
    for wrong in (
        {},
        [],
        {**state, "num_consumed": -5},
        {**state, "num_consumed": NUM_CLIPS},
        {**state, "epoch": -1},
        {**state, "epoch": "1"},
        {**state, "version": 99},
        {**state, "more": 1},
    ):
        with pytest.raises(ValueError, match="position"):
            stream.load_state_dict(wrong)  # type: ignore[arg-type]
    assert stream.state_dict() == state


def test_a_pass_for_validation_can_be_made_again(data: Data) -> None:
    stream = SampleStream(config_of(data), num_epochs=1)
    first, second = ([batch["key"] for batch in stream] for _ in range(2))
    assert first == second and len(first) > 1
    assert [next(iter(stream))["key"] for _ in range(2)] == [first[0]] * 2  # also when it was left half-way


def test_a_finite_stream_goes_on_from_a_state_and_not_beyond_its_end(data: Data) -> None:
    whole = [batch["key"] for batch in SampleStream(config_of(data), num_epochs=1)]
    stream = SampleStream(config_of(data), num_epochs=1)
    next(iter(stream))
    middle = stream.state_dict()
    for state, expected in ((middle, whole[1:]), ({**middle, "epoch": 1, "num_consumed": 0}, [])):
        resumed = SampleStream(config_of(data), num_epochs=1)
        resumed.load_state_dict(state)
        assert [batch["key"] for batch in resumed] == expected
        assert [batch["key"] for batch in resumed] == whole
    with pytest.raises(ValueError, match="beyond the end"):
        SampleStream(config_of(data), num_epochs=1).load_state_dict({**middle, "epoch": 1, "num_consumed": 1})


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_pass_for_validation_shows_each_sample_once_in_equal_steps(data: Data, num_ranks: int) -> None:
    streams = [SampleStream(config_of(data), rank, num_ranks, num_epochs=1) for rank in range(num_ranks)]
    passes = [list(stream) for stream in streams]
    assert {len(batches) for batches in passes} == {-(-NUM_CLIPS // (3 * num_ranks))}
    assert all((s.state_dict()["epoch"], s.state_dict()["num_consumed"]) == (1, 0) for s in streams)
    assert all(len(batch["key"]) == 3 for batches in passes for batch in batches)
    keys = [
        key
        for batches in passes
        for batch in batches
        for key, valid in zip(batch["key"], batch["valid"].tolist(), strict=True)
        if valid
    ]
    assert sorted(keys) == sorted(data.rows["key"].to_pylist())


def test_the_selections_splits_are_kept_apart(data: Data, tmp_path: Path) -> None:
    rows = [{**row, "split": "val" if index < 5 else "train"} for index, row in enumerate(data.rows.to_pylist())]
    selection = select(tmp_path / "split.parquet", pa.Table.from_pylist(rows, data.rows.schema))
    sizes = {
        split: SampleStream(config_of(data, selection=selection, split=split)).samples_per_epoch
        for split in ("train", "val", None)
    }
    assert sizes == {"train": NUM_CLIPS - 5, "val": 5, None: NUM_CLIPS}


# --- damage


def damaged_copy(data: Data, tmp_path: Path, clip: int, damage: str) -> str:
    """A selection of a copy of the dataset in which one sample is damaged."""
    rows = data.rows.to_pylist()
    row = rows[clip]
    root = tmp_path / "damaged"
    for shard in {row["shard"] for row in rows}:
        (root / shard).parent.mkdir(parents=True, exist_ok=True)
        (root / shard).write_bytes((data.root / shard).read_bytes())
    path = root / row["shard"]
    content = bytearray(path.read_bytes())
    start, size = row["sample_offset"], row["sample_size"]
    with tarfile.open(fileobj=io.BytesIO(bytes(content[start : start + size])), mode="r:") as tar:
        video, audio = (tar.getmember(f"{row['key']}.{extension}") for extension in ("mp4", "flac"))
    if damage == "tar header":
        content[start : start + 300] = bytes(300)
    elif damage == "another sample":
        content[start : start + 8] = b"ffffffff"
        header = content[start : start + 512]
        header[148:156] = b" " * 8
        content[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    elif damage == "video":
        middle = start + video.offset_data + video.size // 2
        content[middle : middle + video.size // 4] = bytes(video.size // 4)
    elif damage == "no H.264":  # but with the right hash
        members = read_clip(bytes(content[start : start + size]), size, row["key"])
        half = len(members["mp4"]) // 2
        broken = members["mp4"][:half] + bytes(len(members["mp4"]) - half)
        stored = sample_bytes(row["key"], clip_members(broken, members["flac"], {"key": row["key"]}))
        content[start : start + size] = stored
    elif damage == "audio":
        middle = start + audio.offset_data + audio.size // 2
        content[middle : middle + 10] = bytes(10)
    elif damage == "frame count":
        rows[clip]["num_frames"] = 19
    elif damage == "cut off":
        del content[start + size // 2 :]
    path.write_bytes(content)
    rows = [{**row, "dataset": str(root)} for row in rows]
    return select(tmp_path / f"{damage}.parquet", pa.Table.from_pylist(rows, data.rows.schema))


LAST = NUM_CLIPS - 1


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        ("tar header", "tar"),
        ("another sample", "is there instead"),
        ("video", "mp4 and the hash"),
        ("no H.264", "the video"),
        ("audio", "flac and the hash"),
        ("frame count", "20 frames of video, 19 expected"),
        ("cut off", "shard ends"),
    ],
)
def test_a_damaged_sample_is_an_error_with_its_key(data: Data, tmp_path: Path, damage: str, detail: str) -> None:
    selection = damaged_copy(data, tmp_path, LAST, damage)
    with pytest.raises(DamagedSampleError, match=detail) as caught:
        list(SampleStream(config_of(data, selection=selection), num_epochs=1))
    assert caught.value.key == key_of(LAST)
    assert caught.value.where.endswith("en-000002.tar")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_counts_reports_and_keeps_ranks_in_step(
    data: Data, straight: list[Seen], tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    selection = damaged_copy(data, tmp_path, LAST, "video")
    config = config_of(data, selection=selection, on_damage="skip", num_workers=num_workers, batch_size=1)
    streams = [SampleStream(config, rank, 2, num_epochs=1) for rank in range(2)]
    passes = [list(stream) for stream in streams]
    assert len(passes[0]) == len(passes[1])
    assert [error.key for stream in streams for error in stream.damaged] == [key_of(LAST)]
    assert [record.message for record in caplog.records if "skipped" in record.message] != []
    batches = [batch for batches in passes for batch in batches]
    valid = sorted(seen for batch in batches if bool(batch["valid"].all()) for seen in seen_of(batch))
    assert valid == [seen for seen in straight[:NUM_CLIPS] if seen[1] != key_of(LAST)]
    # its place holds the next whole sample of the order, whoever reads it
    place = next(position for position, key, *_ in straight if key == key_of(LAST))
    (substitute,) = [seen for batch in batches for seen in seen_of(batch) if seen[0] == place]
    assert substitute[1:] == straight[place + 1][1:]


def test_an_error_of_a_worker_keeps_its_key_and_the_place_before_it(
    data: Data, straight: list[Seen], tmp_path: Path
) -> None:
    stream = SampleStream(config_of(data, selection=damaged_copy(data, tmp_path, LAST, "video"), num_workers=2))
    place = next(position for position, key, *_ in straight if key == key_of(LAST))
    with pytest.raises(DamagedSampleError) as caught:
        for _ in stream:
            pass
    assert caught.value.key == key_of(LAST)
    assert stream.state_dict()["num_consumed"] == place // 3 * 3


def test_a_broken_dataset_is_not_taken_for_damaged_samples(data: Data, tmp_path: Path) -> None:
    selection = damaged_copy(data, tmp_path, 0, "nothing")
    stream = SampleStream(config_of(data, selection=selection, on_damage="skip"))
    for shard in (tmp_path / "damaged").rglob("*.tar"):
        shard.write_bytes(END_OF_TAR)
    with pytest.raises(DamagedSampleError, match="8 samples after it"):
        next(iter(stream))
    for shard in (tmp_path / "damaged").rglob("*.tar"):
        shard.unlink()
    with pytest.raises(FileNotFoundError):
        next(iter(stream))
