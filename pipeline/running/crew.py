"""A crew: actors with the same resources, which do one call at a time. One that dies is replaced; its call is repeated.

Ray's own retries bind a call to its actor, which may wait for long for a node to come back. Here any other may take it.
"""

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray import ObjectRef
from ray.exceptions import (
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.config import StageResources
from lipforge.pipeline.ledger.quarantine import DEATHS
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.running.executors import Make, Task

MAX_DEATHS = 50
"""Of workers on one call. The quarantine gives up on units long before."""
MAX_FAILED_STARTS = 10
"""Of actors in a row, as where a node lacks a package: without a limit new ones would be tried for ever."""
_MADE_AT_ONCE = 6
"""Workers of different kinds that an actor keeps."""


@dataclass(eq=False)
class Call:
    """A task on its way."""

    task: Task
    make: Make
    arguments: tuple[Any, ...]
    memory_mb: float = 0.0
    stays: bool = False
    """Whether its value stays where it was made, for a call of another crew."""
    before: "Call | None" = None
    """The one that made an argument."""
    died_on: tuple[str, ...] = ()
    """Hosts of the actors that died during it."""


class Event(NamedTuple):
    """A call is done."""

    call: Call
    value: Any
    left: ObjectRef | None
    """Its value, where that stays on the cluster."""
    host: str
    wall_s: float
    is_lost: bool = False
    """An argument is gone with its node, so the call before it must be done again."""


@dataclass(frozen=True)
class _Outcome:
    value: Any
    wall_s: float
    error: Exception | None = None
    """What the driver is to explain, whole: Ray's own wrapper loses `errno` and has a traceback for a message."""


class _Actor:
    """Makes workers and calls them. Bugs keep Ray's traceback."""

    def __init__(self) -> None:
        self._made: dict[str, Callable[..., Any]] = {}

    def where(self) -> tuple[str, str]:
        """(node, host)."""
        return ray.get_runtime_context().get_node_id(), socket.gethostname()

    def run(self, make: list[ObjectRef], deaths: int, *arguments: Any) -> _Outcome:
        """make: in a list, so that Ray sends only its name. deaths: of actors before, during this call."""
        start_s = time.monotonic()
        DEATHS.set(deaths)
        name = make[0].hex()
        try:
            worker = self._made.pop(name, None) or ray.get(make[0])()
            self._made[name] = worker  # the one used last is the last
            while len(self._made) > _MADE_AT_ONCE:
                del self._made[next(iter(self._made))]
            return _Outcome(worker(*arguments), time.monotonic() - start_s)
        except (DatasetError, ModelFileError, OSError) as error:
            return _Outcome(None, time.monotonic() - start_s, error)

    def run_here(self, make: list[ObjectRef], deaths: int, *arguments: Any) -> tuple[_Outcome, Any]:
        """As run; the value apart, to stay here."""
        outcome = self.run(make, deaths, *arguments)
        return _Outcome(None, outcome.wall_s, outcome.error), outcome.value


@dataclass(eq=False)
class _Hand:
    """An actor that is there."""

    actor: Any
    node: str = ""
    host: str = ""


class Crew:
    """`size` actors, started as there is work."""

    def __init__(self, resources: StageResources, size: int, room: Callable[[], int] | None = None) -> None:
        """room: how many actors the cluster has room for now; None: `size` stays."""
        self.size = size
        self.is_held = False
        """Start no call for now."""
        self.events: dict[ObjectRef, Callable[[ObjectRef], Event | None]] = {}
        """What to wait for; the first returned object of each."""
        self._resources = resources
        self._room = room
        self._queue: deque[Call] = deque()
        self._failed_starts = 0
        """In a row."""
        self._idle: list[_Hand] = []
        self._hands: set[_Hand] = set()
        self._memory_mb: dict[str, float] = {}
        """By node: what it has."""
        self._used_mb: dict[str, float] = {}
        """By node: what its calls may need."""
        self._makes: dict[int, tuple[Make, ObjectRef]] = {}

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def is_missing(self) -> bool:
        """Whether no actor is there, though there are calls."""
        return bool(self._queue) and not any(hand.node for hand in self._hands)

    def submit(self, call: Call) -> None:
        self._queue.append(call)

    def grow(self) -> None:
        """Use nodes that joined."""
        if self._room is not None:
            self.size = max(self.size, self._room())

    def start_work(self) -> None:
        """Start actors that are needed, and calls on those that have nothing to do."""
        busy = len(self._hands) - len(self._idle)
        while len(self._hands) < min(self.size, busy + len(self._queue)):
            self._start_actor()
        while self._queue and not self.is_held:
            hand = self._hand_for(self._queue[0])
            if hand is None:
                return
            self._start_call(hand, self._queue.popleft())

    def take(self, ref: ObjectRef) -> Event | None:
        """What an event means; None when nothing is done by it. Raises DatasetError, OSError and ModelFileError."""
        return self.events.pop(ref)(ref)

    def forget(self, make: Make) -> None:
        """There will be no more calls with this."""
        self._makes.pop(id(make), None)

    def close(self) -> None:
        for hand in self._hands:
            ray.kill(hand.actor)

    # --- actors ---

    def _start_actor(self) -> None:
        needs = self._resources
        remote: Any = ray.remote(_Actor)
        memory = needs.memory_mb * 10**6
        hand = _Hand(remote.options(num_cpus=needs.cpus, num_gpus=needs.gpus, memory=memory).remote())
        self._hands.add(hand)

        def ready(ref: ObjectRef) -> None:
            try:
                hand.node, hand.host = ray.get(ref)
            except RayActorError as error:
                self._hands.discard(hand)
                self._failed_starts += 1
                if self._failed_starts >= MAX_FAILED_STARTS:
                    raise DatasetError(
                        f"workers cannot start: {MAX_FAILED_STARTS} failed in a row. Have all nodes the same packages? "
                        f"The last one: {error}"
                    ) from error
            else:
                self._failed_starts = 0
                self._idle.append(hand)
                if hand.node not in self._memory_mb:
                    self._memory_mb = {n["NodeID"]: n["Resources"].get("memory", 0) / 1e6 for n in ray.nodes()}

        self.events[hand.actor.where.remote()] = ready

    def _hand_for(self, call: Call) -> _Hand | None:
        """An idle one on a node with memory for this call; a node with nothing to do takes any."""
        for hand in self._idle:
            used_mb = self._used_mb.get(hand.node, 0.0)
            if not used_mb or used_mb + call.memory_mb <= self._memory_mb.get(hand.node, 0.0):
                self._idle.remove(hand)
                self._used_mb[hand.node] = used_mb + call.memory_mb
                return hand
        return None

    def _free(self, hand: _Hand, call: Call, is_alive: bool) -> None:
        self._used_mb[hand.node] -= call.memory_mb
        if is_alive:
            self._idle.append(hand)
        else:
            self._hands.discard(hand)
            ray.kill(hand.actor)  # it may only be out of reach

    # --- calls ---

    def _start_call(self, hand: _Hand, call: Call) -> None:
        make = self._shared(call.make)
        left: ObjectRef | None = None
        deaths = len(call.died_on)
        if call.stays:
            ref, left = hand.actor.run_here.options(num_returns=2).remote([make], deaths, *call.arguments)
        else:
            ref = hand.actor.run.remote([make], deaths, *call.arguments)
        self.events[ref] = lambda ref: self._ended(hand, call, ref, left)

    def _ended(self, hand: _Hand, call: Call, ref: ObjectRef, left: ObjectRef | None) -> Event | None:
        try:
            outcome: _Outcome = ray.get(ref)
        except (RayActorError, OutOfMemoryError, WorkerCrashedError):
            self._free(hand, call, is_alive=False)
            self._repeat(hand, call)
            return None
        except ObjectLostError:
            self._free(hand, call, is_alive=True)
            return Event(call, None, None, hand.host, 0.0, is_lost=True)
        self._free(hand, call, is_alive=True)
        if outcome.error is not None:
            raise outcome.error
        return Event(call, outcome.value, left, hand.host, outcome.wall_s)

    def _repeat(self, hand: _Hand, call: Call) -> None:
        """Once what the dead actor left on its node is safe."""
        call.died_on += (hand.host,)
        if len(call.died_on) >= MAX_DEATHS:
            raise DatasetError(
                f"workers died {MAX_DEATHS} times in a row on one task. Something ends them from outside: have "
                "the nodes memory for them? `ray logs` and the systems' logs (`dmesg`) say what was killed."
            )
        if call.task.after_death is None:
            self._queue.appendleft(call)
            return
        here = NodeAffinitySchedulingStrategy(hand.node, soft=False)
        remote: Any = ray.remote(_run)
        ref = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(call.task.after_death)

        def saved(ref: ObjectRef) -> None:
            with contextlib.suppress(RayError):  # the node died, too
                ray.get(ref)
            self._queue.appendleft(call)

        self.events[ref] = saved

    def _shared(self, make: Make) -> ObjectRef:
        """In Ray's object store, once, for as long as the crew lives."""
        if id(make) not in self._makes:
            self._makes[id(make)] = (make, ray.put(make))
        return self._makes[id(make)][1]


def _run(function: Callable[[], None]) -> None:
    function()
