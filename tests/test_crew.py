"""Who gets a call: workers with nothing to do, on machines with memory for it."""

from lipforge.pipeline.config import StageResources
from lipforge.pipeline.running.crew import Call, Crew, _Hand
from lipforge.pipeline.running.executors import Task


def crew_of(**memory_mb: float) -> Crew:
    """Two idle workers on each of these nodes."""
    crew = Crew(StageResources(cpus=1, memory_mb=1000), size=2 * len(memory_mb))
    crew._memory_mb = dict(memory_mb)
    crew._idle = [_Hand(None, node) for node in memory_mb for _ in range(2)]
    crew._hands = set(crew._idle)
    return crew


def call(memory_mb: float) -> Call:
    return Call(Task("unit", None, str), str, (), memory_mb)


def nodes(crew: Crew, *memory_mb: float) -> list[str | None]:
    """Where calls that may need so much run, one after the other."""
    hands = [crew._hand_for(call(some)) for some in memory_mb]
    return [hand.node if hand else None for hand in hands]


def test_what_runs_on_a_machine_fits_into_its_memory() -> None:
    assert nodes(crew_of(a=8000, b=8000), 3000, 3000, 3000, 3000) == ["a", "a", "b", "b"]
    assert nodes(crew_of(a=8000, b=8000), 6000, 6000, 6000) == ["a", "b", None]
    assert nodes(crew_of(a=8000, b=8000), 6000, 1000, 1000, 6000) == ["a", "a", "b", "b"]


def test_a_machine_with_nothing_to_do_takes_what_is_too_large_for_any() -> None:
    crew = crew_of(a=2000)
    large = call(9000)
    hand = crew._hand_for(large)
    assert hand is not None and nodes(crew, 100) == [None]
    crew._free(hand, large, is_alive=True)
    assert nodes(crew, 100) == ["a"]
