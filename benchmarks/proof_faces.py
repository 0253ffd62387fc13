"""The proof on real clips: whose sound do generated mouths follow, on people that the model never saw?

python -m benchmarks.proof_faces RUN/model SELECTION OUT --vae taesd [--clips 24]

Takes clips of the selection's val split, of as many speakers as there are. Each is drawn three times, as
`lipforge infer` does: with its own sound, with that sound 6 frames late, and with the sound of another speaker. Beside
them stand two marks that cost nothing: the clip's own mouth copied (what a model gives that only looks at the reference
frame), and its first mouth held still. OUT.json has each clip's numbers; OUT.md the table:

    confidence      of lips and sound, by the built-in scorer
    on time         share of clips whose best shift is within one frame of the sound
    opening, sound  correlation of the mouth's opening with that of the person who spoke the sound: no scorer in it
    opening, cover  the same with the mouth that was covered: what leaked from the reference
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.commands import say
from lipforge.model.clock import FPS
from lipforge.model.denoiser.mask import to_pixels
from lipforge.pipeline.evaluate.clip import Unmeasurable
from lipforge.pipeline.evaluate.judge import Judge, delayed
from lipforge.pipeline.evaluate.mouth import opening_curve
from lipforge.pipeline.evaluate.numbers import interval
from lipforge.pipeline.infer.lips import DiffusionLips, open_lip_model
from lipforge.pipeline.infer.request import InferConfig, SamplingConfig
from lipforge.train.loop.artist import Artist, CachedVae
from lipforge.train.loop.audio import open_audio_encoder
from lipforge.train.loop.generate import SHIFT_FRAMES
from lipforge.train.loop.held_out import HeldOut, fitted, foreign_of, read_held_out
from lipforge.train.loop.pictures import to_frames

Numbers = dict[str, float]


@dataclass(frozen=True)
class Found:
    """Of one clip."""

    key: str
    speaker: str
    language: str
    numbers: dict[str, Numbers]
    """By video and sound, as `drawn foreign`."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """A sound, and how far the mouth of the person who spoke it was open: float [T], NaN where that is not known."""

    audio: np.ndarray
    opening: np.ndarray | None


DRAWN, COPIED, STILL = "drawn", "copied", "still"
OWN, LATE, FOREIGN = "own", "late", "foreign"
CONFIDENCE, ON_TIME = "confidence", "on time"
OF_SOUND, OF_COVER = "opening, sound", "opening, cover"
COLUMNS = (CONFIDENCE, ON_TIME, OF_SOUND, OF_COVER)
COMPARED = (
    (f"{DRAWN} {OWN}", f"{STILL} {OWN}"),
    (f"{DRAWN} {LATE}", f"{COPIED} {FOREIGN}"),
    (f"{DRAWN} {FOREIGN}", f"{COPIED} {FOREIGN}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("selection")
    parser.add_argument("out", type=Path, help="OUT.json and OUT.md are written")
    parser.add_argument("--vae")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=1.5)
    given = parser.parse_args()
    sampling = SamplingConfig(steps=given.steps, guidance=given.guidance)
    model = open_lip_model(InferConfig(model=given.model, vae=given.vae, device="cpu", sampling=sampling))
    if not isinstance(model, DiffusionLips):
        parser.error("MODEL must be a diffusion network")
    clips, _ = read_held_out(given.selection, given.clips, given.seconds)
    networks = replace(model.networks, vae=CachedVae(model.networks.vae))  # the same faces for each sound
    lips = DiffusionLips(networks, sampling, lambda: False)
    found = measured(Artist(lips, open_audio_encoder(model.audio_encoder)), clips)
    given.out.with_suffix(".json").write_text(json.dumps([asdict(clip) for clip in found], indent=1) + "\n")
    words = table(found)
    given.out.with_suffix(".md").write_text(words + "\n")
    print(words)


def measured(artist: Artist, clips: Sequence[HeldOut]) -> list[Found]:
    judge = Judge(only=frozenset({"sync_confidence", "sync_offset_frames"}))
    openings = [truth(judge, clip, artist.resolution) for clip in clips]
    found = []
    for number, (clip, other) in enumerate(zip(clips, foreign_of(clips), strict=True)):
        own = openings[number]
        if own is None or other is None:
            continue
        frames = shrunk(clip, artist.resolution)
        later = np.concatenate([np.full(SHIFT_FRAMES, np.nan), own])[: len(own)]
        spoken = {
            OWN: Spoken(clip.audio, own),
            LATE: Spoken(delayed(clip.audio, SHIFT_FRAMES), later),
            FOREIGN: Spoken(fitted(clips[other].audio, clip.num_frames), openings[other]),
        }
        still = np.repeat(frames[:1], len(frames), axis=0).astype(np.float32)
        videos: dict[str, dict[str, np.ndarray]] = {
            COPIED: dict.fromkeys(spoken, frames),
            STILL: {OWN: artist.blended(still, frames)},
            DRAWN: {label: artist.draw(frames, sound.audio) for label, sound in spoken.items()},
        }
        numbers = {
            f"{how} {label}": judged(judge, video, spoken[label], own)
            for how, by_sound in videos.items()
            for label, video in by_sound.items()
        }
        found.append(Found(clip.key, clip.speaker, clip.language, numbers))
        say(f"{number + 1} of {len(clips)}: {clip.key}, {clip.num_frames} frames; {numbers}")
    return found


def shrunk(clip: HeldOut, resolution: int) -> np.ndarray:
    return to_frames(to_pixels(torch.from_numpy(clip.frames()), resolution))


def truth(judge: Judge, clip: HeldOut, resolution: int) -> np.ndarray | None:
    """Opening of the clip's own mouth, float [T]; None without a face."""
    try:
        return opening_curve(judge.aligned(clip.key, shrunk(clip, resolution), clip.audio).points)
    except Unmeasurable:
        return None


def judged(judge: Judge, video: np.ndarray, sound: Spoken, cover: np.ndarray) -> Numbers:
    """cover: opening of the mouth that the new one covers."""
    try:
        clip = judge.aligned("", video, sound.audio)
        score = judge.sync(clip)
    except Unmeasurable:
        return {}
    curve = opening_curve(clip.points)
    values = {
        CONFIDENCE: score.confidence,
        ON_TIME: float(abs(score.offset_frames) <= 1),
        OF_SOUND: None if sound.opening is None else correlation(curve, sound.opening),
        OF_COVER: correlation(curve, cover),
    }
    return {name: value for name, value in values.items() if value is not None}


def correlation(curve: np.ndarray, other: np.ndarray) -> float | None:
    """Of the frames that both have; None where one does not move."""
    length = min(len(curve), len(other))
    both = np.stack([curve[:length], other[:length]])
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] < FPS // 2 or both.std(axis=1).min() < 1e-6:
        return None
    return float(np.corrcoef(both)[0, 1])


def table(found: Sequence[Found]) -> str:
    lines = ["| video | sound | " + " | ".join(COLUMNS) + " |", "| --- " * (2 + len(COLUMNS)) + "|"]
    for name in dict.fromkeys(name for clip in found for name in clip.numbers):
        cells = [mean(found, lambda clip, name=name, of=of: clip.numbers.get(name, {}).get(of)) for of in COLUMNS]
        lines.append(f"| {' | '.join(name.split())} | {' | '.join(cells)} |")
    lines += ["", "Confidence, within a clip:", ""]
    for first, second in COMPARED:

        def difference(clip: Found, first: str = first, second: str = second) -> float | None:
            one, other = (clip.numbers.get(name, {}).get(CONFIDENCE) for name in (first, second))
            return None if one is None or other is None else one - other

        lines.append(f"- {first} over {second}: {mean(found, difference)}")
    speakers = {clip.speaker for clip in found}
    lines += ["", f"n = {len(found)} clips of {len(speakers)} people; 95 % bootstrap intervals, drawn by person."]
    return "\n".join(lines)


def mean(found: Sequence[Found], number: Callable[[Found], float | None]) -> str:
    """With its interval, over the clips that have it."""
    there = [(value, clip.speaker) for clip in found if (value := number(clip)) is not None]
    if not there:
        return "-"
    values, speakers = zip(*there, strict=True)
    low, high = interval(np.array(values), speakers)
    return f"{np.mean(values):.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
