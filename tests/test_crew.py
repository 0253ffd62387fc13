"""Who gets a call: workers with nothing to do, on machines with memory for it."""

import errno
import pickle
from collections.abc import Callable

import pytest

from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.config import StageResources
from lipforge.pipeline.ledger.quarantine import DEATHS
from lipforge.pipeline.ledger.records import DatasetError, TakenOverError
from lipforge.pipeline.running import crew
from lipforge.pipeline.running.crew import Call, Crew, _Hand
from lipforge.pipeline.running.executors import Task


def crew_of(**memory_mb: float) -> Crew:
    """Two idle workers on each of these nodes."""
    made = Crew(StageResources(cpus=1, memory_mb=1000), size=2 * len(memory_mb))
    made._memory_mb = dict(memory_mb)
    made._idle = [_Hand(None, node) for node in memory_mb for _ in range(2)]
    made._hands = set(made._idle)
    return made


def call(memory_mb: float) -> Call:
    return Call(Task("unit", None, str), str, (), memory_mb)


def nodes(some: Crew, *memory_mb: float) -> list[str | None]:
    """Where calls that may need so much run, one after the other."""
    hands = [some._hand_for(call(mb)) for mb in memory_mb]
    return [hand.node if hand else None for hand in hands]


def test_what_runs_on_a_machine_fits_into_its_memory() -> None:
    assert nodes(crew_of(a=8000, b=8000), 3000, 3000, 3000, 3000) == ["a", "a", "b", "b"]
    assert nodes(crew_of(a=8000, b=8000), 6000, 6000, 6000) == ["a", "b", None]
    assert nodes(crew_of(a=8000, b=8000), 6000, 1000, 1000, 6000) == ["a", "a", "b", "b"]


def test_a_machine_with_nothing_to_do_takes_what_is_too_large_for_any() -> None:
    one = crew_of(a=2000)
    large = call(9000)
    hand = one._hand_for(large)
    assert hand is not None and nodes(one, 100) == [None]
    one._free(hand, large, is_alive=True)
    assert nodes(one, 100) == ["a"]


def test_workers_are_missing_when_there_is_work_and_none_has_started() -> None:
    empty = Crew(StageResources(cpus=1, memory_mb=1000, gpus=1), size=2)
    assert not empty.is_missing
    empty.submit(call(10))
    assert empty.is_missing
    started = crew_of(a=8000)
    started.submit(call(10))
    assert not started.is_missing


class FakeReference:
    def __init__(self, make) -> None:
        self.make = make

    def hex(self) -> str:
        return str(id(self.make))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        DatasetError("cannot write to the dataset: No space left on device. Make room"),
        TakenOverError("dataset/manifest/generation-000002.json"),
        UnreadableError("s3://bucket/x cannot be read: Forbidden. Check"),
        ModelFileError("syncnet_v2.model: damaged"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_what_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own wrapper has a traceback for a message, and no errno."""

    def worker(item: object) -> None:
        raise error

    monkeypatch.setattr(crew.ray, "get", lambda reference: reference.make)
    outcome = crew._Actor().run([FakeReference(lambda: worker)], 0, None)  # type: ignore[list-item]
    arrived = pickle.loads(pickle.dumps(outcome)).error
    assert type(arrived) is type(error) and str(arrived) == str(error)
    assert getattr(arrived, "errno", None) == getattr(error, "errno", None)


def test_a_worker_is_made_once_and_the_count_of_deaths_is_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make() -> Callable[[int], tuple[int, int]]:
        made.append(1)
        return lambda item: (item, DEATHS.get())

    monkeypatch.setattr(crew.ray, "get", lambda reference: reference.make)
    actor, reference = crew._Actor(), FakeReference(make)
    values = [actor.run([reference], deaths, item).value for item, deaths in ((1, 0), (2, 3))]  # type: ignore[list-item]
    assert values == [(1, 0), (2, 3)] and len(made) == 1
    others = [FakeReference(lambda n=n: lambda item: n) for n in range(6)]
    assert [actor.run([other], 0, None).value for other in others] == list(range(6))  # type: ignore[list-item]
    actor.run([reference], 0, 1)  # type: ignore[list-item]
    assert len(made) == 2  # six others came in between: it was dropped


def test_workers_that_cannot_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reference: object) -> None:
        raise crew.RayActorError(error_msg="no module named torch")

    class Actor:
        def options(self, **_: object) -> "Actor":
            return self

        def remote(self) -> "Actor":
            return self

        @property
        def where(self) -> "Where":
            return Where()

    class Where:
        def remote(self) -> object:
            return object()

    monkeypatch.setattr(crew.ray, "remote", lambda of: Actor())
    monkeypatch.setattr(crew.ray, "get", fail)
    one = Crew(StageResources(cpus=1, memory_mb=1000), size=1)
    one.submit(call(100))
    with pytest.raises(DatasetError, match=r"workers cannot start: 10 failed in a row.*no module named torch"):
        for _ in range(crew.MAX_FAILED_STARTS):
            one.start_work()
            assert one.take(next(iter(one.events))) is None
