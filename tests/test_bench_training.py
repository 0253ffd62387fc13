"""The arithmetic behind the numbers of training: what counts as a step, and medians of turns."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import training
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.stream import SampleStream
from tests.train_runs import coded_selection


class SteppedTime:
    """Both clocks of the module `time`, moved by hand."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> SteppedTime:
    found = SteppedTime()
    monkeypatch.setattr(training, "time", found)
    return found


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"), num_train=3, num_val=1)


def steps_of(stream: SampleStream, stepped: SteppedTime, durations: list[float]) -> list[int]:
    """Work so long on each batch; returns their positions."""
    positions = []
    batches = iter(stream)
    for duration in durations:
        positions.append(int(next(batches)["position"][0]))
        stepped.now += duration
    next(batches)
    return positions


def test_steps_are_timed_without_the_turn_of_the_other_loop(selection: str, stepped: SteppedTime):
    clock = training.Clock()
    other: Callable[..., None] = lambda batch: setattr(stepped, "now", stepped.now + 100)  # noqa: E731
    stream = training.clocked_stream(clock, True, other)(StreamConfig(selection=selection, num_frames=5))
    durations = [9.0, 9.0, 1.0, 2.0, 6.0]
    positions = steps_of(stream, stepped, durations)
    assert positions == list(itertools.islice(itertools.cycle(range(training.BATCHES_IN_MEMORY)), 5))
    assert [cost["wall"] for cost in clock.costs] == durations
    assert clock.mean() == {"wall": 3.0, "cpu": 1.5}, "the first steps count"


def test_validation_is_not_timed(selection: str, stepped: SteppedTime):
    clock = training.Clock()
    kind = training.clocked_stream(clock, True, lambda batch: pytest.fail("validation takes a turn"))
    stream = kind(StreamConfig(selection=selection, num_frames=5, split="val"), num_epochs=1)
    assert len(list(stream)) == 1
    assert clock.costs == []


def test_median_is_taken_of_each_number():
    turns = [{"a": {"wall": value}, "b": 10 - value} for value in (1.0, 5.0, 2.0)]
    assert training.medians(turns) == {"a": {"wall": 2.0}, "b": 8.0}


def test_bare_loop_learns_from_the_batches_of_the_trainer(selection: str, tmp_path: Path):
    import torch

    config = training.config_of("tiny_stage1", selection, tmp_path / "run", 1, "num_frames=5")
    bare = training.BareLoop(config)
    before = {name: value.clone() for name, value in bare.network.state_dict().items()}
    batch = next(iter(SampleStream(StreamConfig(selection=selection, num_frames=5))))
    moments = {f"{name}_moments": torch.randn(1, 5, 8, 16, 16).half() for name in ("target", "masked", "reference")}
    bare.step({**batch, **moments})
    assert any(not torch.equal(before[name], value) for name, value in bare.network.state_dict().items())
    assert len(bare.clock.costs) == 1
