"""The quantities of a sample as columns of numbers, and their totals over all that there is to do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.estimate.observation import CLIP_STAGES, KEPT, REFUSED, SHARDS, STILLS, Observation
from lipforge.pipeline.estimate.population import Population
from lipforge.pipeline.estimate.ranges import Uncertain, totals
from lipforge.pipeline.estimate.sample import megapixels_per_s

BETWEEN = "between stages"
"""CPU time of a worker that no stage is charged with."""


@dataclass(frozen=True)
class Sums:
    """Totals over the units that are to be processed."""

    scale: Uncertain
    """By how much the sources to probe are more than those probed."""
    seconds: Uncertain
    outcome_s: dict[str, Uncertain]
    clips: Uncertain
    refused_clips: Uncertain
    rows: Uncertain
    media_bytes: dict[str, Uncertain]
    stage_cpu_s: dict[str, Uncertain]


@dataclass(frozen=True)
class _Column:
    values: list[float]
    """Of each observation."""
    grows_with_pixels: bool = False
    """Or else with seconds."""
    is_share: bool = False


def seconds_of(units: Sequence[Unit]) -> float:
    return sum(unit.num_frames for unit in units) / FPS


def megapixels_of(units: Sequence[Unit]) -> float:
    """That decoding them yields."""
    return sum(unit.num_frames / FPS * megapixels_per_s(unit) for unit in units)


def sums(population: Population, sample: Sequence[Observation], rng: np.random.Generator) -> Sums:
    """sample: at least one observation, or nothing is to be processed."""
    scale = _scale(population, rng)
    old, new = population.units[: population.num_sure], population.units[population.num_sure :]
    seconds = scale * seconds_of(new) + seconds_of(old)
    pixels = scale * megapixels_of(new) + megapixels_of(old)
    columns = _columns(sample) if sample else {}
    if not columns:
        none = Uncertain.exact(0.0)
        return Sums(scale, seconds, {}, none, none, none, dict.fromkeys((SHARDS, REFUSED, STILLS), none), {})
    grown = [(pixels if column.grows_with_pixels else seconds) for column in columns.values()]
    x = [[(o.megapixels if c.grows_with_pixels else o.seconds) for c in columns.values()] for o in sample]
    found = totals(
        np.array([column.values for column in columns.values()]).T,
        np.array(x),
        np.array([size.value for size in grown]),
        np.array([column.is_share for column in columns.values()]),
        rng,
    )
    by_name = {
        name: total * Uncertain(1.0, size.draws / max(size.value, 1e-12))
        for name, total, size in zip(columns, found, grown, strict=True)
    }

    def of(kind: str) -> dict[str, Uncertain]:
        return {name: total for (k, name), total in by_name.items() if k == kind}

    counts = of("count")
    return Sums(
        scale, seconds, of("outcome"), counts[KEPT], counts["refused"], counts["rows"], of("bytes"), of("stage")
    )


def _scale(population: Population, rng: np.random.Generator) -> Uncertain:
    """By how much the seconds of all sources to probe are more than those of the ones probed."""
    if not population.is_sampled or not population.probed:
        return Uncertain.exact(1.0)
    seconds = dict.fromkeys((source.entry_id for source in population.probed), 0.0)
    for unit in population.units[population.num_sure :]:
        seconds[unit.video.source.entry_id] += unit.num_frames / FPS
    if not any(seconds.values()):
        return Uncertain.exact(population.scale)
    y = np.array([[value] for value in seconds.values()])
    x = np.array([[population.sizes[entry]] for entry in seconds])
    all_ = np.array([sum(population.sizes.values())])
    (total,) = totals(y, x, all_, np.array([False]), rng)
    return total * (1 / y.sum())


def growth(sample: Sequence[Observation]) -> float:
    """By how much the seconds of runs are more than those that have an outcome: some are open at a border."""
    run_s = sum(sum(observation.run_outcome_s.values()) for observation in sample)
    return 1 + sum(observation.open_s for observation in sample) / run_s if run_s else 1.0


def outcome_s(observation: Observation, grow: float) -> dict[str, float]:
    """Seconds by outcome, with what is open given the outcomes of all runs."""
    found = {
        name: seconds + (grow - 1) * observation.run_outcome_s.get(name, 0.0)
        for name, seconds in observation.outcome_s.items()
    }
    if grow == 1 and observation.open_s:  # no run in the sample has an outcome
        found[Reason.TOO_SHORT] = found.get(Reason.TOO_SHORT, 0.0) + observation.open_s
    return found


def _columns(sample: Sequence[Observation]) -> dict[tuple[str, str], _Column]:
    grow = growth(sample)
    outcomes = [outcome_s(observation, grow) for observation in sample]
    columns: dict[tuple[str, str], _Column] = {}
    for name in sorted({KEPT}.union(*outcomes)):
        columns["outcome", name] = _Column([found.get(name, 0.0) for found in outcomes], is_share=True)
    columns["count", KEPT] = _Column([grow * o.kept_clips for o in sample])
    columns["count", "refused"] = _Column([grow * o.refused_clips for o in sample])
    columns["count", "rows"] = _Column([float(o.num_rows) for o in sample])
    for kind in (SHARDS, REFUSED, STILLS):
        more = 1.0 if kind == STILLS else grow
        columns["bytes", kind] = _Column([more * o.media_bytes.get(kind, 0) for o in sample])
    for stage in sorted(set().union(*(o.stage_cpu_s for o in sample))):
        more = grow if stage in CLIP_STAGES else 1.0
        values = [more * o.stage_cpu_s.get(stage, 0.0) for o in sample]
        columns["stage", stage] = _Column(values, grows_with_pixels=stage == Stage.RESAMPLE)
    between = [max(o.cpu_s - sum(o.stage_cpu_s.values()), 0.0) for o in sample]
    columns["stage", BETWEEN] = _Column(between)
    return columns
