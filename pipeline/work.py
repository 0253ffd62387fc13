"""Content in work, from its units over the seams between them to its segment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lipforge.pipeline.clip import Unit
from lipforge.pipeline.publish.accounts import AccountsError
from lipforge.pipeline.publish.seal import DoneContent
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.unfinished import Todo


@dataclass(eq=False)
class Segment:
    """Content of one segment."""

    order: int
    """Units of the first segment go first."""
    number: int | None
    """None until it is planned."""
    works: "list[Work]" = field(default_factory=list)
    num_units: int = 0
    seconds: float = 0.0
    num_open: int = 0
    """Content that is not done, as far as it can be done."""


@dataclass(eq=False)
class Work:
    """Content in work."""

    todo: Todo
    segment: Segment
    index: int
    """Row of the segment's plan."""
    num_open: int
    """Units, or then seams, that are not done, as far as they can be done."""
    is_undone: bool = False
    """Whether a unit or seam stays undone."""
    ends: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What plan_seams needs of its done units."""
    seams: list[Unit] | None = None
    """Across the borders of its units, once these are all done."""
    seams_done: set[str] = field(default_factory=set)


def seams_of(work: Work, min_frames: int) -> list[Unit]:
    """Units across the borders of content whose units are all done. min_frames: of the shortest run that is cut."""
    todo = work.todo
    known = [
        work.ends.get(unit.unit_id) or {"end_frame": unit.end_frame, "open_ends": todo.open_ends.get(unit.unit_id, [])}
        for unit in todo.content.units
    ]
    return plan_seams(todo.content.video, known, min_frames)


def done_content(work: Work) -> DoneContent:
    """What is sealed of it. Raises AccountsError when any of it would be left out."""
    todo = work.todo
    redone = {unit.unit_id for unit in todo.units}
    carried = [unit.unit_id for unit in todo.content.units if unit.unit_id not in redone]
    seams = [seam.unit_id for seam in work.seams or ()]
    new = [seam for seam in seams if seam in work.seams_done]
    carried += [seam for seam in seams if seam not in work.seams_done and seam in todo.sealed_units]
    if work.seams is None or len(new) + len(carried) + len(redone) < len(seams) + len(todo.content.units):
        raise AccountsError(f"{todo.owner.source.uri}: its units are done, but not all of it was sealed")
    units = tuple(unit.unit_id for unit in todo.units) + tuple(new)
    return DoneContent(work.index, todo.owner, units, tuple(carried))
