"""Clips that a request would take, and that their dataset's own thresholds keep out of its shards: in words."""

import shlex
from typing import Any

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.generations import generation_numbers, last_generation, read_generation
from lipforge.datasets_manifest.manifest import ManifestError
from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.select.candidates import THRESHOLDS, Candidates, Mask
from lipforge.datasets_manifest.select.request import Request
from lipforge.datasets_manifest.storage.store import Store

_MOST_GENERATIONS = 50
"""Read to learn what a threshold was before."""


def refused_by_datasets(clips: Candidates, passing: Mask, request: Request) -> list[str]:
    """Clips that pass the request but not the stricter threshold that their dataset was packed with."""
    lines = []
    for reason, limit in _asked(request).items():
        if limit is None:
            continue
        rows = clips.distinct(passing & ~clips.in_shard & clips.reason.equals(reason))
        seconds = float(clips.seconds[rows].sum())
        if seconds:
            lines.append(
                f"up to {human_time(seconds)} more pass, but the dataset's own threshold refused them ({reason}) and "
                f"they are in no shard: lipforge pack DATASET --set {THRESHOLDS[reason]}={limit:g} brings back those "
                "that its other thresholds keep"
            )
    return lines


def emptied_by(clips: Candidates, passing: Mask, request: Request) -> list[str]:
    """Where no clip that passes the request is in a shard: which threshold of each dataset refused the most of them.

    Two lines for each dataset that refused any: what happened, and the command that brings clips back.
    """
    lines = []
    for index, root in enumerate(request.roots()):
        here = passing & (clips.dataset == index)
        rows = {reason: clips.distinct(here & clips.reason.equals(reason)) for reason in THRESHOLDS}
        in_force, before = _thresholds(root)
        reason = max(rows, key=lambda reason: (len(rows[reason]) > 0, THRESHOLDS[reason] in before, len(rows[reason])))
        count, name = len(rows[reason]), THRESHOLDS[reason]
        if not count or name not in in_force:
            continue
        refuses = f"{counted(count, 'clip')} ({human_time(float(clips.seconds[rows[reason]].sum()))})"
        limit = f"{name}={in_force[name]:g}"
        why = f"`lipforge pack` set {limit}, which refuses" if name in before else f"its threshold {limit} refuses"
        lines.append(f"{root} has no clip for this: {why} {refuses}.")
        looser = before.get(name, _asked(request).get(reason))
        given = f"{name}=VALUE" if looser is None else f"{name}={looser:g}"
        lines.append(f"To have back what its other thresholds keep: lipforge pack {shlex.quote(root)} --set {given}")
    return lines


def _asked(request: Request) -> dict[Reason, float | None]:
    """The request's own limits, by the reason of the dataset's."""
    return {
        Reason.TOO_SHORT: request.min_clip_s,
        Reason.LOW_SYNC_CONFIDENCE: request.min_sync,
        Reason.LOW_QUALITY: request.min_quality,
        Reason.FACE_CUT_OFF: request.max_outside,
    }


def _thresholds(root: str) -> tuple[dict[str, float], dict[str, float]]:
    """(those in force, of those that a `lipforge pack` set: what they were before). Empty when unknown."""
    store = Store(root)
    last = last_generation(store)
    if last is None:
        return {}, {}
    in_force, before = _numbers(last.about.get("thresholds")), dict[str, float]()
    earlier = [number for number in generation_numbers(store) if number < last.number]
    for number in reversed(earlier[-_MOST_GENERATIONS:]):
        try:
            found = _numbers(read_generation(store, number).about.get("thresholds"))
        except (FileNotFoundError, ManifestError):  # deleted, or of another version
            break
        before = {name: value for name, value in found.items() if value != in_force.get(name)} | before
    return in_force, before


def _numbers(thresholds: Any) -> dict[str, float]:
    """What of it is a limit: a file may hold anything."""
    found = thresholds if isinstance(thresholds, dict) else {}
    return {name: value for name, value in found.items() if type(value) in (int, float)}
