"""Validation by generated video: held-out clips get new mouths, as inference draws them, and are judged.

Each clip is drawn three times: with its own sound; with that sound a quarter of a second late, which the mouth should
follow; and with another speaker's. Ranks share the clips. Each makes the same number of calls of the network, for
FSDP and DeepSpeed answer only when all ranks ask.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate.utils import gather_object

from lipforge.datasets_manifest.display import counted
from lipforge.model.denoiser.mask import to_pixels
from lipforge.pipeline.evaluate.clip import AlignedClip, Unmeasurable
from lipforge.pipeline.evaluate.judge import Judge, delayed
from lipforge.train.config import DiffusionConfig
from lipforge.train.loop.artist import Artist
from lipforge.train.loop.best import Forgetting, forgetting
from lipforge.train.loop.checkpoint import Generated
from lipforge.train.loop.data import Data
from lipforge.train.loop.films import Film, film_of
from lipforge.train.loop.held_out import HeldOut, fitted, foreign_of, read_held_out
from lipforge.train.loop.inputs import InputMaker
from lipforge.train.loop.pictures import to_frames
from lipforge.train.loop.run import OPENING_ERRORS, Run

log = logging.getLogger(__name__)

SHIFT_FRAMES = 6
"""The sound of `shifted` is so much late: the largest offset that `lipforge prepare` corrects."""
OWN, SHIFTED, FOREIGN = "own", "shifted", "foreign"
ORIGINAL, ORIGINAL_FOREIGN, STILL = "original", "original_foreign", "still"
"""Marks to compare with: the clip itself; the clip with the foreign sound, which is what copying every mouth of the
reference would give; and the mouth of the first frame held for the whole clip."""
VAL, BASE = "val", "base"
SYNC, OFFSET, LIPS = "sync_confidence", "sync_offset_frames", "lip_distance_px"
PICTURE_METRICS = ("lpips", "st_lpips", "ssim")
"""The first one that is measured decides between checkpoints."""
_OF_PICTURES = tuple(name + part for name in PICTURE_METRICS for part in ("", "_mouth"))
_NUMBERS = (SYNC, OFFSET, LIPS, *_OF_PICTURES)
NUM_PICTURES = 10
"""Frames of a clip, evenly spread, that are compared with the original's: ST-LPIPS takes a quarter of a CPU second."""
NUM_FILMS = 2
"""Clips that TensorBoard plays."""


@dataclass(frozen=True, eq=False)
class Job:
    """One clip to draw, with these sounds by label: float32 [(T + 30) * 640]."""

    group: str
    clip: HeldOut
    sounds: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found of one clip. Numbers by video and metric; empty where a video shows no face."""

    group: str
    key: str
    values: dict[str, dict[str, float]]
    film: Film | None = None


class Generation:
    """One per process. Collective: all ranks call the same methods at the same place."""

    def __init__(self, config: DiffusionConfig, run: Run, data: Data, inputs: InputMaker) -> None:
        """Raises on all ranks what reading clips and opening the judge raise."""
        self._config, self._run = config, run
        self._jobs: list[Job] = []
        if not config.generate.num_clips or not data.has_validation:
            return
        self._jobs = run.together.do(lambda: _jobs(config, inputs.resolution, self._say), *OPENING_ERRORS)
        if not self._jobs:
            return
        self._judge = run.together.do(
            lambda: Judge(only=frozenset(_NUMBERS), num_pictures=NUM_PICTURES), *OPENING_ERRORS
        )
        self._artist = Artist.of_run(config, run, inputs)
        self._originals: dict[str, tuple[AlignedClip | None, dict[str, float]]] = {}
        networks = [model.sha256 for model in self._judge.models]
        self._clips = _fingerprint(config, inputs.resolution, self._jobs, networks)
        if run.generated and run.generated[-1].clips != self._clips:
            self._say("other clips or another judge than before: the numbers of generated video begin anew")
            run.generated.clear()
        # Before the first step; or a signal to stop came in the middle of it.
        is_missing = not run.generated or (self._is_due() and run.generated[-1].step != run.step)
        if is_missing and not run.is_done:
            self.generate()

    def validate(self) -> None:
        """Generate, when it is due."""
        if self._jobs and self._is_due():
            self.generate()

    def generate(self) -> None:
        """Draw, judge, log and remember. A signal to stop leaves it unfinished; a resume then makes it anew."""
        run, together = self._run, self._run.together
        rank, num_ranks = run.accelerator.process_index, run.accelerator.num_processes
        with_marks = not run.generated
        mine: list[Judged] = []
        mode = run.network.training
        run.network.eval()
        with run.not_training(), run.ema.swapped_in(), torch.no_grad():
            for first in range(0, len(self._jobs), num_ranks):
                if together.stop_requested():
                    break
                shared = self._jobs[first : first + num_ranks]
                costs = [self._artist.num_windows(job.clip.num_frames) * len(job.sounds) for job in shared]
                if rank < len(shared):
                    mine.append(self._draw(shared[rank], with_marks, first + rank))
                self._artist.keep_step(max(costs) - (costs[rank] if rank < len(shared) else 0))
        run.network.train(mode)
        if together.stop_requested():
            return
        order = {(job.group, job.clip.key): number for number, job in enumerate(self._jobs)}
        found: list[Judged] = sorted(gather_object(mine), key=lambda judged: order[judged.group, judged.key])
        self._conclude([judged for judged in found if SYNC in judged.values[ORIGINAL]], with_marks)

    def _draw(self, job: Job, with_marks: bool, number: int) -> Judged:
        clip = job.clip
        frames = to_frames(to_pixels(torch.from_numpy(clip.frames()), self._artist.resolution))
        drawn = {label: self._artist.draw(frames, audio) for label, audio in job.sounds.items()}
        original, numbers = self._original(clip, frames)
        values = {ORIGINAL: numbers}
        for label, video in drawn.items():
            values[label] = self._values(clip, video, job.sounds[label], original if label == OWN else None)
        if with_marks and job.group == VAL:
            still = self._artist.blended(np.repeat(frames[:1], len(frames), axis=0).astype(np.float32), frames)
            values[STILL] = self._values(clip, still, clip.audio, original)
            if FOREIGN in job.sounds and original is not None:
                values[ORIGINAL_FOREIGN] = self._judge.measure(replace(original, audio=job.sounds[FOREIGN]))
        if job.group == BASE:
            return Judged(job.group, clip.key, values)
        film = film_of({ORIGINAL: frames, **drawn}, job.sounds, with_gif=number < NUM_FILMS)
        return Judged(job.group, clip.key, values, film)

    def _original(self, clip: HeldOut, frames: np.ndarray) -> tuple[AlignedClip | None, dict[str, float]]:
        """With its numbers; judged once. None: the judge finds no face in it."""
        if clip.key not in self._originals:
            try:
                original = self._judge.aligned(clip.key, frames, clip.audio)
                self._originals[clip.key] = original, self._judge.measure(original)
            except Unmeasurable as error:
                log.warning("%s", f"clip {clip.key} is not judged: {error}")
                self._originals[clip.key] = None, {}
        return self._originals[clip.key]

    def _values(
        self, clip: HeldOut, frames: np.ndarray, audio: np.ndarray, original: AlignedClip | None
    ) -> dict[str, float]:
        try:
            return self._judge.measure(self._judge.aligned(clip.key, frames, audio), original)
        except Unmeasurable:
            return {}

    def _conclude(self, found: Sequence[Judged], with_marks: bool) -> None:
        run, config = self._run, self._config
        val = [judged for judged in found if judged.group == VAL]
        base = [judged for judged in found if judged.group == BASE]
        if not val:
            self._say("no held-out clip can be judged: generated video decides nothing in this run")
            self._jobs = []
            return
        values = _means(val, (OWN, SHIFTED, FOREIGN, *((ORIGINAL, ORIGINAL_FOREIGN, STILL) if with_marks else ())))
        sync, base_sync = (
            {judged.key: judged.values[OWN][SYNC] for judged in group if SYNC in judged.values[OWN]}
            for group in (val, base)
        )
        lost: Forgetting | None = None
        values |= {f"{BASE}_{name}": value for name, value in _means(base, (OWN,)).items()}
        if run.generated and run.generated[0].base:
            lost = forgetting(run.generated[0].base, base_sync, config.max_forgetting)
        if lost is not None:
            values["base_forgotten"] = lost.share
            self._say(lost.words(config.max_forgetting))
        run.was_generated(
            Generated(
                step=run.step,
                clips=self._clips,
                sync=sync,
                base=base_sync,
                picture=_picture(values) if len(sync) == len(val) else None,
                num_clips=len(val),
                has_forgotten=lost is not None and lost.is_beyond,
            ),
            values,
            {judged.key: judged.film for judged in val if judged.film is not None},
        )

    def _is_due(self) -> bool:
        return self._run.is_due(self._config.generate.every or self._config.validate_every)

    def _say(self, words: str) -> None:
        if self._run.accelerator.is_main_process:
            log.warning("%s", words)


def _jobs(config: DiffusionConfig, resolution: int, say: Callable[[str], None]) -> list[Job]:
    chosen = config.generate
    clips, num_short = read_held_out(config.selection, chosen.num_clips, chosen.seconds)
    if num_short:
        short = counted(num_short, "held-out clip is", "held-out clips are")
        say(f"{short} shorter than 1 s, so not generated: they cannot be judged")
    if not clips:
        return []
    foreign = foreign_of(clips)
    if None in foreign:
        say(
            "the generated clips have a single speaker: none gets another's sound. More generate.num_clips, or "
            "held-out speakers, give one"
        )
    jobs = []
    for clip, other in zip(clips, foreign, strict=True):
        sounds = {OWN: clip.audio, SHIFTED: delayed(clip.audio, SHIFT_FRAMES)}
        if other is not None:
            sounds[FOREIGN] = fitted(clips[other].audio, clip.num_frames)
        jobs.append(Job(VAL, clip, sounds))
    if config.base_selection is not None:
        base, _ = read_held_out(config.base_selection, chosen.num_clips, chosen.seconds)
        if not base:
            raise ValueError(
                f"base_selection={config.base_selection} has no held-out clip of a second or more: make it with "
                "`lipforge select --val-hours`"
            )
        side = base[0].frames().shape[1]
        if side < resolution:
            raise ValueError(
                f"base_selection={config.base_selection} has frames of {side} px, and this run has {resolution}: take "
                "clips of that size or larger"
            )
        jobs += [Job(BASE, clip, {OWN: clip.audio}) for clip in base]
    return jobs


def _fingerprint(config: DiffusionConfig, resolution: int, jobs: Iterable[Job], judge: Sequence[str]) -> str:
    chosen = config.generate
    clips = [[job.group, job.clip.key, job.clip.first, job.clip.num_frames] for job in jobs]
    about = [chosen.steps, chosen.guidance, config.seed, resolution, clips, list(judge)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _means(found: Sequence[Judged], labels: Iterable[str]) -> dict[str, float]:
    """Of each number of each video, as `own_sync_confidence`, over the clips that have it."""
    means = {}
    for label in labels:
        for metric in _NUMBERS:
            values = [judged.values.get(label, {}).get(metric) for judged in found]
            there = [value for value in values if value is not None]
            if there:
                means[f"{label}_{metric}"] = float(np.mean(there))
    return means


def _picture(values: dict[str, float]) -> float | None:
    """Distance of generated pictures from the originals, by the best measure that is there."""
    name = next((name for name in PICTURE_METRICS if f"{OWN}_{name}" in values), None)
    if name is None:
        return None
    value = values[f"{OWN}_{name}"]
    return 1 - value if name == "ssim" else value
