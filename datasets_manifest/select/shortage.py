"""What to tell the user when there is too little, and about the clips that were not taken."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.select.candidates import Candidates, Mask, RowNumbers
from lipforge.datasets_manifest.select.filters import language_mask, mixed_models, passing_all, window_option
from lipforge.datasets_manifest.select.pools import hash_place, pools_by_split
from lipforge.datasets_manifest.select.refused import emptied_by, refused_by_datasets
from lipforge.datasets_manifest.select.request import NotEnoughDataError, Request

TOLERANCE = 0.01
"""Hours may miss what was asked for by this share, or by one clip."""


def refuse_too_little(
    clips: Candidates,
    filters: Mapping[str, Mask],
    split: str,
    pool: RowNumbers,
    hours: float | None,
    request: Request,
) -> None:
    """Raises NotEnoughDataError, which says how much there is and what each filter costs.

    A split without a single clip is too little in any case.
    """
    found_s = _seconds(clips, pool)
    if len(pool) and (request.allow_less or hours is None or found_s / 3600 >= hours * (1 - TOLERANCE)):
        return
    what = "training" if split == "train" else "validation"
    asked = "" if hours is None else f"asked for {hours:g} h, "
    passing = passing_all(clips, filters)
    emptied = [] if (passing & clips.in_shard).any() else emptied_by(clips, passing, request)
    lines = emptied or [f"not enough {what} data: {asked}found {human_time(found_s)}."]
    if split == "val":
        lines.append(_more_speakers(clips, passing, hours, request))
    costs = {name: there_s for name, there_s in _costs(clips, filters, split, request).items() if there_s > found_s}
    if costs:
        lines.append("Without one of the filters there would be:")
        ranked = sorted(costs.items(), key=lambda cost: -cost[1])
        lines += [f"  {human_time(there_s)} without {name}" for name, there_s in ranked]
    elif filters and not emptied:
        everything = pools_by_split(clips, clips.in_shard, request)[split]
        total = human_time(_seconds(clips, everything))
        lines.append(f"No filter alone makes the difference; without all of them there would be {total}.")
    if request.languages and not (language_mask(clips, request) & clips.in_shard).any():
        lines.append(f"Languages here: {_most_spoken(clips)}.")
    if not emptied:
        lines += refused_by_datasets(clips, passing, request)
        accepts = "accepts what there is." if len(pool) else "does not help: there is not one clip."
        lines.append(f"--allow-less {accepts}")
    raise NotEnoughDataError("\n".join(lines))


def notes_on(clips: Candidates, filters: Mapping[str, Mask], chosen: pa.Table, request: Request) -> list[str]:
    """What the user should know about a selection."""
    passing = passing_all(clips, filters)
    notes = refused_by_datasets(clips, passing, request)
    option = window_option(request)
    short = clips.distinct(passing_all(clips, filters, but=option) & ~passing & clips.in_shard)
    if len(short):
        these = f"{counted(len(short), 'clip')} ({human_time(_seconds(clips, short))})"
        notes.append(
            f"{these} {'is' if len(short) == 1 else 'are'} too short for two windows of {request.window_frames} frames "
            f"({option}): trainers with windows of that length cannot use them"
        )
    unknown = chosen["speaker"].null_count
    if unknown:
        notes.append(
            f"{unknown:,} of {counted(len(chosen), 'clip has', 'clips have')} no speaker: each source counts as one, "
            "so someone who speaks in two sources counts twice"
        )
    if clips.same_clip is not None:
        rows = passing & clips.in_shard
        twice = int(rows.sum()) - len(clips.distinct(rows))
        if twice:
            notes.append(f"{counted(twice, 'clip is', 'clips are')} in more than one dataset: each counts once")
    return notes


def _seconds(clips: Candidates, rows: RowNumbers) -> float:
    return float(clips.seconds[rows].sum())


def _more_speakers(clips: Candidates, passing: Mask, hours: float | None, request: Request) -> str:
    """Which share of speakers would give validation its hours."""
    allowed = f"Validation may use {100 * request.val_share:g} % of all speakers, chosen by hash of the name"
    needed_s = 0.0 if request.allow_less else (hours or 0) * 3600 * (1 - TOLERANCE)
    rows = pools_by_split(clips, passing & clips.in_shard, replace(request, val_hours=0.0))["train"]
    places = np.array([hash_place(name) for name in clips.speaker_names])[clips.speaker[rows]]
    by_place = np.argsort(places, kind="stable")
    total = np.cumsum(clips.seconds[rows][by_place])
    enough = int(np.searchsorted(total, needed_s))
    if enough >= len(rows):
        return f"{allowed}; all speakers together would not be enough."
    share = math.floor(places[by_place][enough] * 1000 + 1) / 1000  # the next step above that speaker's place
    if not (places >= share).any():
        return f"{allowed}; it would take all speakers together, and leave none for training."
    return f"{allowed}; --val-share {share:g} would be enough, and would leave the others for training."


def _costs(clips: Candidates, filters: Mapping[str, Mask], split: str, request: Request) -> dict[str, float]:
    """Seconds that a split could take without each filter alone."""
    tries = {
        name: (passing_all(clips, filters, but=name), request)
        for name in filters
        if not mixed_models(clips, {other: mask for other, mask in filters.items() if other != name}, request)
    }
    passing = passing_all(clips, filters)
    if request.max_hours_per_speaker is not None:
        name = f"--max-hours-per-speaker {request.max_hours_per_speaker:g}"
        tries[name] = (passing, replace(request, max_hours_per_speaker=None))
    if request.val_hours and split == "train":
        tries["--val-hours"] = (passing, replace(request, val_hours=0.0))
    return {
        name: _seconds(clips, pools_by_split(clips, mask & clips.in_shard, looser)[split])
        for name, (mask, looser) in tries.items()
    }


def _most_spoken(clips: Candidates, count: int = 12) -> str:
    codes = clips.language.codes[clips.in_shard] + 1
    seconds = np.bincount(codes, clips.seconds[clips.in_shard], minlength=len(clips.language.values) + 1)
    by_tag: dict[str, float] = {}
    for label, there_s in zip([None, *clips.language.values], seconds, strict=True):
        tag = stored_language(label)
        by_tag[tag] = by_tag.get(tag, 0.0) + float(there_s)
    ranked = sorted((tag for tag in by_tag if by_tag[tag] > 0), key=lambda tag: -by_tag[tag])
    shown = [f"{tag} {human_time(by_tag[tag])}" for tag in ranked[:count]]
    return ", ".join(shown) + (f", and {len(ranked) - count} more" if len(ranked) > count else "")
