"""Each second of each source is accounted for in exactly one row of the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.schema import Status
from lipforge.model.clock import FPS
from lipforge.pipeline.publish.decide import is_measured

Row = dict[str, Any]

_PRECEDENCE = {Status.KEPT.value: 0, Status.REJECTED.value: 1, Status.FAILED.value: 2}


class AccountsError(Exception):
    """Seconds are missing or counted twice: a bug in Lipforge, never a fault of the data."""


def accounted_frames(rows: pa.Table) -> np.ndarray:
    """int64 [N]: the frames that each decided row of a sealed segment alone accounts for.

    rows: sorted by content. Raises AccountsError unless each frame of each content is accounted for exactly once.
    """
    content = rows["content"].to_numpy()
    first, end = rows["start_frame"].to_numpy(), rows["end_frame"].to_numpy()
    lengths = end - first
    edges = np.flatnonzero(np.diff(content, prepend=-1))
    bounds = list(zip(edges, [*edges[1:], len(content)], strict=True))
    video_first, video_end = rows["video_first_frame"].to_numpy(), rows["video_end_frame"].to_numpy()
    order = np.lexsort((end, first, content))
    follows = np.ones(len(content), bool)  # the row begins where the one before it in time ends
    follows[1:] = first[order][1:] == end[order][:-1]
    result = lengths.copy()
    for start, stop in bounds:
        here = order[start:stop]
        whole = first[here[0]] == video_first[here[0]] and end[here[-1]] == video_end[here[0]]
        if whole and follows[start + 1 : stop].all():
            continue  # one row after another: each accounts for all of its frames
        plain = (
            rows.slice(start, stop - start)
            .select(["status", "start_frame", "end_frame", "track_index", "quality"])
            .to_pylist()
        )
        account(plain, int(video_first[here[0]]), int(video_end[here[0]]))
        result[start:stop] = [row["accounted_frames"] for row in plain]
    return result


def account(rows: list[Row], first_frame: int, end_frame: int) -> None:
    """Give each row the number of frames that it alone accounts for, as `accounted_frames`.

    Tracks of several faces overlap in time: kept clips take their frames first, then rejected ones, then failed ones;
    of the rejected ones first those that were measured, so that the run of a seam goes by what became of its clip.
    """
    owner = np.full(end_frame - first_frame, -1, dtype=np.int64)
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            _PRECEDENCE[rows[i]["status"]],
            not is_measured(rows[i]),
            rows[i]["start_frame"],
            rows[i]["track_index"],
        ),
    )
    for index in order:
        row = rows[index]
        span = owner[row["start_frame"] - first_frame : row["end_frame"] - first_frame]
        free = span == -1
        row["accounted_frames"] = int(free.sum())
        span[free] = index
    missing = int((owner == -1).sum())
    if missing:
        at = first_frame + int(np.flatnonzero(owner == -1)[0])
        raise AccountsError(f"{counted(missing, 'frame has', 'frames have')} no row, the first at {at / FPS:.2f} s")


@dataclass
class Totals:
    """Sums over the manifest's rows."""

    seconds_by_outcome: dict[str, float] = field(default_factory=dict)
    """Accounted seconds: of `kept`, and of each reason."""
    clips_by_outcome: dict[str, int] = field(default_factory=dict)
    """Rows: of `kept`, and of each reason."""

    @classmethod
    def of(cls, rows: pa.Table) -> "Totals":
        """rows: of a manifest."""
        outcome = pc.if_else(pc.equal(rows["status"], Status.KEPT.value), "kept", rows["reason"])
        table = pa.table({"outcome": outcome, "seconds": rows["accounted_s"]})
        groups = table.group_by("outcome").aggregate([("seconds", "sum"), ("seconds", "count")]).to_pylist()
        groups.sort(key=lambda group: group["outcome"])
        return cls(
            {group["outcome"]: round(group["seconds_sum"] or 0.0, 2) for group in groups},
            {group["outcome"]: group["seconds_count"] for group in groups},
        )

    def add(self, other: "Totals") -> None:
        for outcome, seconds in other.seconds_by_outcome.items():
            self.seconds_by_outcome[outcome] = self.seconds_by_outcome.get(outcome, 0.0) + seconds
        for outcome, clips in other.clips_by_outcome.items():
            self.clips_by_outcome[outcome] = self.clips_by_outcome.get(outcome, 0) + clips

    def as_json(self) -> dict[str, Any]:
        return {
            outcome: [self.clips_by_outcome[outcome], seconds] for outcome, seconds in self.seconds_by_outcome.items()
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Totals":
        """plain: what `as_json` gave."""
        return cls({name: pair[1] for name, pair in plain.items()}, {name: pair[0] for name, pair in plain.items()})
