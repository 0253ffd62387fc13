"""From what there is to do, and what a sample of it showed, to what the run will give and cost."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from lipforge.datasets_manifest.schema import Reason, Stage
from lipforge.model.clock import FPS
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.columns import growth, outcome_s, seconds_of, sums
from lipforge.pipeline.estimate.disk import Disk, Media, disk_of
from lipforge.pipeline.estimate.measure import Sample
from lipforge.pipeline.estimate.observation import KEPT, REFUSED, SHARDS, STILLS, Observation
from lipforge.pipeline.estimate.population import Population
from lipforge.pipeline.estimate.ranges import NUM_DRAWS, Range, Uncertain, totals, unseen_share
from lipforge.pipeline.estimate.sample import megapixels_per_s
from lipforge.pipeline.estimate.wall import Crew, Fixed, crew_sizes_to_show, finish_s
from lipforge.pipeline.running.workers import memory_mb

STARTING = "starting"
"""CPU time that is no stage's: of the main process, and of workers until they have loaded their models."""
SEED = 0
SPEED_VARIES = 0.06
"""The same work takes so much more or less CPU time from one hour to another, as a standard deviation: two estimates of
the same talks, with a neighbour on the other core, were 9 % apart."""

START_VARIES = 0.2
"""The same of starting, of which Ray's part is not measured."""
MEMORY_VARIES = 0.1
"""A worker's peak differs by so much from one run to another."""


@dataclass(frozen=True)
class Language:
    name: str
    seconds: float
    """Of video to process."""
    kept_s: Range | None
    """None: the sample has none of it."""
    num_spans: int


@dataclass(frozen=True)
class Forecast:
    """What a run will give and cost. Seconds are of video, but for CPU and wall time."""

    found_s: Range
    """Of all new sources: what outcome_s adds up to."""
    outcome_s: dict[str, Range]
    """`kept`, and by reason, largest first."""
    unseen_s: float
    """That reasons which the sample did not meet may take, each. 0 when all was processed."""
    clips: Range
    languages: list[Language]
    cpu_s: Range
    stage_cpu_s: dict[str, Range]
    """Slowest first."""
    crews: list[Crew]
    memory_bytes: Range
    """Of a worker at its peak."""
    disk: Disk
    seen_share: float
    """Of the video to process, in the sample."""


def forecast(
    population: Population, sample: Sample, config: PrepareConfig, fixed: Fixed, num_workers: int, here: int
) -> Forecast:
    """num_workers: that the run will have; here: that this machine has room for.

    The sample has an observation, unless there is nothing to process.
    """
    rng = np.random.default_rng(SEED)
    observations, units = sample.observations, population.units
    found = sums(population, observations, rng)
    scale = found.scale
    outcomes = dict(found.outcome_s)
    for reason, seconds in _known_losses_s(population).items():
        outcomes[reason] = outcomes.get(reason, Uncertain.exact(0.0)) + scale * seconds
    lost = sorted((name for name in outcomes if name != KEPT), key=lambda name: -outcomes[name].value)
    speed = Uncertain(1.0, np.exp(rng.normal(0.0, SPEED_VARIES, NUM_DRAWS)))
    stages = {name: cpu_s * speed for name, cpu_s in found.stage_cpu_s.items()}
    work = sum(stages.values(), Uncertain.exact(0.0))
    stages[Stage.PROBE] = scale * speed * population.probe_cpu_s
    num_workers = min(num_workers, max(round(len(units) * scale.value), 1))  # more are not started
    start = Uncertain(1.0, np.exp(rng.normal(0.0, START_VARIES, NUM_DRAWS)))
    stages[STARTING] = start * (fixed.cpu_s + num_workers * sample.start_cpu_s)
    cpu = sum(stages.values(), Uncertain.exact(0.0))
    shards, refused, stills = (found.media_bytes[kind] for kind in (SHARDS, REFUSED, STILLS))
    counts = found.clips.value, found.refused_clips.value, found.rows.value
    media = Media(shards, refused, stills, *counts)
    left_s = max(found.seconds.value - sample.seconds, 0.0)
    return Forecast(
        found_s=(found.seconds + scale * sum(_known_losses_s(population).values())).range,
        outcome_s={name: outcomes[name].range for name in (KEPT, *lost) if name in outcomes},
        unseen_s=left_s * unseen_share(len(observations)) if observations else 0.0,
        clips=found.clips.range,
        languages=_languages(population, sample, scale, rng),
        cpu_s=cpu.range,
        stage_cpu_s={name: stages[name].range for name in sorted(stages, key=lambda name: -stages[name].value)},
        crews=_crews(population, sample, config, start * fixed.wall_s, (num_workers, here), work, scale),
        memory_bytes=_memory(population, sample, config),
        disk=disk_of(media, found.seconds.value, round(len(units) * scale.value)),
        seen_share=min(sample.seconds / max(found.seconds.value, 1e-9), 1.0),
    )


def _known_losses_s(population: Population) -> dict[str, float]:
    """Seconds that are lost for what the headers say, by reason."""
    seconds: dict[str, float] = defaultdict(float)
    for video in population.unusable:
        assert video.reason is not None
        seconds[video.reason.value] += video.seconds_in
    if population.duplicates:
        seconds[Reason.DUPLICATE.value] = sum(video.seconds_in for video in population.duplicates)
    return {reason: value for reason, value in seconds.items() if value}


def _languages(population: Population, sample: Sample, scale: Uncertain, rng: np.random.Generator) -> list[Language]:
    """Of sources that have a label; none when none has."""
    seconds: dict[str, float] = defaultdict(float)
    for number, unit in enumerate(population.units):
        factor = 1.0 if number < population.num_sure else scale.value
        seconds[unit.video.source.language] += factor * unit.num_frames / FPS
    if set(seconds) <= {"und"}:
        return []
    grow = growth(sample.observations)
    by_language: dict[str, list[Observation]] = defaultdict(list)
    for observation in sample.observations:
        by_language[observation.language].append(observation)
    found = []
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        here = by_language[name]
        kept: Range | None = None
        if here:
            y = np.array([[outcome_s(observation, grow).get(KEPT, 0.0)] for observation in here])
            x = np.array([[observation.seconds] for observation in here])
            (total,) = totals(y, x, np.array([seconds[name]]), np.array([True]), rng)
            kept = total.range
        found.append(Language(name, seconds[name], kept, len(here)))
    return found


def _crews(
    population: Population,
    sample: Sample,
    config: PrepareConfig,
    fixed_s: Uncertain,
    workers: tuple[int, int],
    work: Uncertain,
    scale: Uncertain,
) -> list[Crew]:
    """fixed_s: for any number of workers. workers: num_workers and here. work: CPU seconds of stages but probing."""
    cpu_s = sum(observation.cpu_s for observation in sample.observations)
    waits = max(sum(observation.wall_s for observation in sample.observations) / cpu_s, 1.0) if cpu_s else 1.0
    unit_s = _unit_wall_s(population, sample)
    here_s = sum(unit_s)
    work_s = work * waits
    num_units = round(len(unit_s) * scale.value)
    crews = []
    sizes = [1] if config.run.executor == "local" else crew_sizes_to_show(*workers, num_units)
    for size in sizes:
        # What the queue of units adds to an even share of the work: the last ones are not done at the same time.
        uneven = finish_s(unit_s, size) / (here_s / size) if here_s and not population.is_sampled else 1.0
        probing = scale * (population.probe_wall_s / size)
        wall = work_s * (uneven / size) + probing + (fixed_s + sample.start_wall_s)
        crews.append(Crew(size, wall.range))
    return crews


def _unit_wall_s(population: Population, sample: Sample) -> list[float]:
    """Relative costs of units, in seconds."""
    pixels = sum(observation.megapixels for observation in sample.observations)
    decode_s = sum(observation.stage_cpu_s.get(Stage.RESAMPLE, 0.0) for observation in sample.observations)
    other_s = sum(observation.cpu_s for observation in sample.observations) - decode_s
    per_pixel, per_second = decode_s / max(pixels, 1e-9), other_s / max(sample.seconds, 1e-9)
    return [u.num_frames / FPS * (per_second + per_pixel * megapixels_per_s(u)) for u in population.units]


def _memory(population: Population, sample: Sample, config: PrepareConfig) -> Range:
    """The peak in the sample, up to what a run sets aside for the largest picture where not all was processed."""
    peak = max((observation.peak_mb for observation in sample.observations), default=sample.start_mb)
    is_all = sample.seconds >= seconds_of(population.units) - 0.5 / FPS and not population.is_sampled
    set_aside = max((memory_mb(unit, config) for unit in population.units), default=0.0)
    low, high = (1 - MEMORY_VARIES) * peak, (1 + MEMORY_VARIES) * peak
    return Range(1e6 * peak, 1e6 * low, 1e6 * (high if is_all else max(high, set_aside)))
