"""How long a run takes on so many workers: pure."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from lipforge.pipeline.estimate.ranges import Range

RAY_START_S = 5.0
"""Until Ray runs on this machine."""
END_S = 1.0
"""To seal the last segment, put the manifest in force and write the report, of which the last is most."""
MANY_UNITS = 20_000
"""Units of which the longest does not matter: their sum is shared out evenly."""


@dataclass(frozen=True)
class Fixed:
    """What a run takes however few sources it has, but for the workers' start."""

    cpu_s: float
    wall_s: float


def fixed_costs(opening_s: float, uses_ray: bool) -> Fixed:
    """opening_s: CPU time to load this program, open the models and find the sources, which is about what it takes."""
    seconds = opening_s + END_S + (RAY_START_S if uses_ray else 0.0)
    return Fixed(seconds, seconds)


@dataclass(frozen=True)
class Crew:
    """Workers of a run, and the time that it would take."""

    num_workers: int
    wall_s: Range


def finish_s(unit_s: Sequence[float], num_workers: int) -> float:
    """When the last worker is done, if whoever is free takes the longest unit that is left. unit_s: of each unit."""
    if num_workers == 1 or len(unit_s) > MANY_UNITS:
        return max(sum(unit_s) / num_workers, max(unit_s, default=0.0))
    free_at_s = [0.0] * min(num_workers, max(len(unit_s), 1))
    for seconds in sorted(unit_s, reverse=True):
        heapq.heapreplace(free_at_s, free_at_s[0] + seconds)
    return max(free_at_s)


def crew_sizes_to_show(num_workers: int, here: int, num_units: int) -> list[int]:
    """1, what the run will have, what this machine has, and, if there are units for them, ten times that, and 100."""
    more = {number for number in (10 * here, 100) if number <= num_units}
    return sorted({1, num_workers, here} | more)
