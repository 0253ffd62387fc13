"""Talking videos of many made speakers, to train on without any recording.

python -m tests.made_speakers VIDEOS --num-speakers 12 --clips-each 3

    VIDEOS/en/speaker_000/0.mp4 ...     for `lipforge prepare VIDEOS --path-template '{language}/{speaker}/'`

All are the talking photograph (talking_photo.py). A speaker's number decides the voice (pitch, vocal tract, rate) and
the look (mirrored, colours, light from a side, proportions, blur, how far the mouth opens). What the words mean to the
lips is the same for all, as with people. Languages are labels only, and all babble alike, but for
OTHER_LANGUAGE: the same sounds with other lips, as a language that a model has to learn anew.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from tests.talking_photo import LIPS, OTHER_LIPS, WIDEST_OPENING_PX, Voice, perform, write_clip

LANGUAGES = ("en", "zh", "ar")
OTHER_LANGUAGE = "art-x-other"
"""A BCP 47 tag for a made language: its sounds are those of the others, its lips are not."""


@dataclass(frozen=True)
class Look:
    """What is done to the photograph's frames."""

    mirrored: bool
    wide: float
    """Width of the face over that of the photograph, at the same height."""
    lean: float
    """Shear: how far the top moves sideways, over the height."""
    gains: tuple[float, float, float]
    """Factor of each colour."""
    gamma: float
    light: tuple[float, float]
    """Brighter to the right and to the bottom by these shares of the brightness in the middle."""
    blur_px: float
    """Deviation, in pixels of a frame of 320 px."""
    widest_opening_px: float


@dataclass(frozen=True)
class Speaker:
    name: str
    language: str
    voice: Voice
    look: Look


def make_speaker(number: int, languages: Sequence[str] = LANGUAGES) -> Speaker:
    """The speaker with that number, always the same."""
    rng = np.random.default_rng([number, 2])
    voice = Voice(
        pitch_hz=float(90 * 2 ** rng.uniform(0, 1.5)),
        formant_scale=float(rng.uniform(0.88, 1.15)),
        rate=float(rng.uniform(0.85, 1.15)),
    )
    red, green, blue = rng.uniform(0.75, 1.15, 3)
    look = Look(
        mirrored=bool(rng.integers(2)),
        wide=float(rng.uniform(0.9, 1.12)),
        lean=float(rng.uniform(-0.06, 0.06)),
        gains=(red, green, blue),
        gamma=float(2 ** rng.uniform(-0.5, 0.5)),
        light=(float(rng.uniform(-0.35, 0.35)), float(rng.uniform(-0.2, 0.2))),
        blur_px=float(rng.uniform(0, 0.9)),
        widest_opening_px=WIDEST_OPENING_PX * float(rng.uniform(0.8, 1.2)),
    )
    return Speaker(f"speaker_{number:03d}", languages[number // 4 % len(languages)], voice, look)


def make_clip(
    path: Path, speaker: Speaker, seed: int, duration_s: float = 12.0, av_offset_frames: int = 0, size_px: int = 320
) -> Path:
    """Write a clip of the speaker. seed: what is said. av_offset_frames: positive = the audio is early."""
    lips = OTHER_LIPS if speaker.language == OTHER_LANGUAGE else LIPS
    opening_px = speaker.look.widest_opening_px
    frames, audio = perform(duration_s, av_offset_frames, seed, size_px, speaker.voice, opening_px, lips)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, _dress(frames, speaker.look, size_px), audio)
    return path


def make_videos(
    folder: Path,
    num_speakers: int,
    clips_each: int = 3,
    duration_s: float = 12.0,
    size_px: int = 320,
    languages: Sequence[str] = LANGUAGES,
) -> list[Path]:
    """Write LANGUAGE/SPEAKER/N.mp4 for speakers 0 .. num_speakers - 1, on all cores. No two clips say the same."""
    jobs = []
    for number in range(num_speakers):
        speaker = make_speaker(number, languages)
        for clip in range(clips_each):
            path = folder / speaker.language / speaker.name / f"{clip}.mp4"
            jobs.append((path, speaker, 1000 * number + clip, duration_s, 0, size_px))
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as workers:
        return list(workers.map(make_clip, *zip(*jobs, strict=True)))


def _dress(frames: Iterator[np.ndarray], look: Look, size_px: int) -> Iterator[np.ndarray]:
    middle = (size_px - 1) / 2
    sign = -1.0 if look.mirrored else 1.0
    turn = np.array([[sign * look.wide, look.lean], [0.0, 1.0]])
    shape = np.column_stack([turn, np.array([middle, middle]) - turn @ np.array([middle, middle])])
    levels = (np.arange(256) / 255) ** look.gamma
    curves = np.stack([np.clip(255 * gain * levels, 0, 255) for gain in look.gains], axis=-1).astype(np.uint8)[None]
    across = np.linspace(-1, 1, size_px)
    light = (1 + look.light[0] * across[None, :] + look.light[1] * across[:, None])[..., None].astype(np.float32)
    blur_px = look.blur_px * size_px / 320
    for frame in frames:
        dressed = cv2.warpAffine(frame, shape, (size_px, size_px), borderMode=cv2.BORDER_REFLECT_101)
        dressed = cv2.LUT(dressed, curves)
        if blur_px > 0.2:
            dressed = cv2.GaussianBlur(dressed, (0, 0), blur_px)
        yield np.clip(dressed * light, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-speakers", type=int, default=12)
    parser.add_argument("--clips-each", type=int, default=3)
    parser.add_argument("--duration-s", type=float, default=12.0)
    parser.add_argument("--size-px", type=int, default=320)
    given = parser.parse_args()
    paths = make_videos(given.folder, given.num_speakers, given.clips_each, given.duration_s, given.size_px)
    print(f"{len(paths)} videos in {given.folder}")


if __name__ == "__main__":
    main()
