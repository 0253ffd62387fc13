"""What a confidence of the built-in lip-sync scorer is worth at each length of a clip: a table and a chart.

    python -m benchmarks.lip_sync.lengths CLIPS --out docs/models/lip_sync_lengths.md

CLIPS is a folder as for `python -m benchmarks.lip_sync`. Windows of each length are scored with their own audio, with
shifts planted in it, and with the audio of other speakers. `short_sync_factor` is read off the clips that may shape
what ships (`trainable` in clips.csv); the clean ones, of other speakers, show whether it holds.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.lip_sync.clips import CLEAN, Follower, Track, kinds, read_about
from benchmarks.lip_sync.figures import COLOURS, save
from benchmarks.lip_sync.markdown import number, percent, table
from benchmarks.lip_sync.measures import SHIFTS, Scorer, Scores, estimate, measure, rejected_at, windows
from lipforge.model.clock import FPS
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.publish.decide import confidence_needed

LENGTHS = (50, 62, 75, 87, 100, 112, 125, 175, 250)
"""Frames: 2 to 10 s."""
FIT_QUANTILE = 0.98
PLANTED = range(-6, 7)
"""Frames."""
FITTED, HELD_OUT = "may have shaped the weights", CLEAN
FACTOR = PROFILES["builtin"].short_sync_factor


@dataclass(frozen=True)
class AtLength:
    """One length, one group of speakers."""

    scores: Scores
    needed: float
    """Confidence that a clip of this length needs."""

    @property
    def seconds(self) -> float:
        return self.scores.length / FPS

    def accepted(self, threshold: float) -> float:
        """Share of pairs with another speaker's audio."""
        return float(np.mean(self.scores.other.confidence >= threshold))

    def kept(self, threshold: float) -> float:
        """Share of windows with their own audio."""
        return float(np.mean(self.scores.own >= threshold))

    def near(self, threshold: float) -> float:
        """Share of planted shifts found within a frame, of windows that reach the threshold with their own audio."""
        columns = [SHIFTS.index(shift) for shift in PLANTED]
        errors = self.scores.errors[self.scores.own >= threshold][:, columns]
        known = errors[errors != Scores.OUT]
        return float(np.mean(np.abs(known) <= 1)) if len(known) else float("nan")


def needed_at(num_frames: int) -> float:
    thresholds = Thresholds(min_sync_confidence=DEFAULT_MIN_CONFIDENCE, short_sync_factor=FACTOR)
    return confidence_needed(num_frames, thresholds)


def by_length(scorer: Scorer, tracks: Sequence[Track]) -> list[AtLength]:
    """Lengths for which there are windows of at least two speakers."""
    found = []
    for length in LENGTHS:
        parts = windows(tracks, length)
        if len({part.track.speaker for part in parts}) > 1:
            found.append(AtLength(measure(scorer, parts), needed_at(length)))
    return found


def fitted_factor(found: Sequence[AtLength]) -> float:
    """What clips of up to 4 s need, relative to 5 s, for as few false accepts: the worst length decides."""
    chance = {one.scores.length: float(np.quantile(one.scores.other.confidence, FIT_QUANTILE)) for one in found}
    return max(value for length, value in chance.items() if length <= 4 * FPS) / chance[5 * FPS]


def draw(found: Sequence[AtLength]) -> Figure:
    """Held-out speakers: wrong audio that passes, and own audio that passes, by length, with and without the factor."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained")
    lengths = [one.seconds for one in found]
    for threshold, colour, style in (("one threshold", COLOURS[4], "--"), ("the default", COLOURS[0], "-")):
        limits = [DEFAULT_MIN_CONFIDENCE if threshold == "one threshold" else one.needed for one in found]
        pairs = list(zip(found, limits, strict=True))
        for axes, values in (
            (left, [one.accepted(limit) for one, limit in pairs]),
            (right, [one.kept(limit) for one, limit in pairs]),
        ):
            label = f"{threshold}: {DEFAULT_MIN_CONFIDENCE:g}" + (
                f", up to {DEFAULT_MIN_CONFIDENCE * FACTOR:.2f} below 5 s" if threshold == "the default" else ""
            )
            axes.plot(lengths, [100 * value for value in values], style, color=colour, marker=".", label=label)
    left.set(xlabel="length of the clip, s", ylabel="wrong audio accepted, %", xlim=(1.5, 10.5), ylim=(0, None))
    right.set(xlabel="length of the clip, s", ylabel="own audio accepted, %", xlim=(1.5, 10.5), ylim=(0, 102))
    left.legend(loc="upper right")
    return figure


def rows(found: Sequence[AtLength]) -> str:
    lines = []
    for one in found:
        scores = one.scores
        wrong = estimate(rejected_at(one.needed), scores)
        lines.append(
            [
                f"{one.seconds:g} s",
                f"{len(scores.own)} / {len(scores.unique_speakers)} / {len(scores.other.confidence)}",
                " / ".join(number(float(q)) for q in np.quantile(scores.own, [0.1, 0.5, 0.9])),
                " / ".join(number(float(q)) for q in np.quantile(scores.other.confidence, [0.5, 0.95, 0.98])),
                f"{100 * one.accepted(DEFAULT_MIN_CONFIDENCE):.1f} %",
                percent(one.kept(DEFAULT_MIN_CONFIDENCE)),
                f"{one.needed:.2f}",
                f"**{100 * (1 - wrong.value):.1f} %** ({100 * (1 - wrong.high):.1f} to {100 * (1 - wrong.low):.1f})",
                f"**{percent(one.kept(one.needed))}**",
                f"{number(one.near(0))} / {number(one.near(one.needed))}",
            ]
        )
    header = [
        "length", "windows / speakers / pairs", "own audio: 10 % / median / 90 %", "wrong audio: median / 95 % / 98 %",
        f"wrong accepted at {DEFAULT_MIN_CONFIDENCE:g}", f"own accepted at {DEFAULT_MIN_CONFIDENCE:g}", "needed",
        "wrong accepted (95 % over speakers)", "own accepted", "shifts within 1 frame: all / of the accepted",
    ]  # fmt: skip
    return table(header, lines)


def page(fitted: Sequence[AtLength], held_out: Sequence[AtLength], name: str, folder: str) -> str:
    return f"""# Lip-sync confidence by length

Made by `python -m benchmarks.lip_sync.lengths CLIPS --out docs/models/lip_sync_lengths.md`; do not edit. Scorer:
`{name}`.

Wrong audio fits a clip of 2 to 4 s more easily by chance: it is scored as a whole, while longer clips must match in
each of their stretches of 4 s. So one threshold would let more wrong audio pass in short clips. By default a clip of
5 s or more needs a confidence of {DEFAULT_MIN_CONFIDENCE:g}, one of up to 4 s {FACTOR:g} times that
(`thresholds.short_sync_factor`), and one in between a value in proportion. The stored confidence stays as measured.

![Wrong audio and own audio accepted, by length, for held-out speakers]({folder}/lengths.svg)

## Held-out speakers

The clean clips of [lip_sync_results.md](lip_sync_results.md): neither the weights nor the factor have seen these
speakers. That 5 s need {DEFAULT_MIN_CONFIDENCE:g} was once read off some of them.

{rows(held_out)}

## The speakers that the factor was read off

Clips that may have shaped the weights. The worst length up to 4 s needs {fitted_factor(fitted):.2f} times what 5 s need
for {100 * (1 - FIT_QUANTILE):.0f} % of wrong audio accepted, so the factor is {FACTOR:g}. The same ratio on held-out
speakers: {fitted_factor(held_out):.2f}.

{rows(fitted)}

## How it was measured

- Windows of each length, overlapping by half, of faces followed as in `lipforge prepare`. Wrong audio is that of every
  window of every other speaker. Shifts of {PLANTED[0]} to +{PLANTED[-1]} frames are planted in the samples, for clips
  with a known reference offset, which is itself accurate to a frame.
- Lengths with windows of one speaker alone are left out. Intervals are percentile bootstraps over speakers, which are
  few: above 5 s hardly any are left. [lip_sync_results.md](lip_sync_results.md) has chance up to 20 s, with voices
  joined from several clips.
- SyncNet v2 (`models: latentsync`) was not measured, as its weights were not at hand: its scale stays as published,
  with a factor of 1.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of videos with clips.csv")
    parser.add_argument("--out", type=Path, required=True, help="the page (.md); its chart goes into a folder")
    arguments = parser.parse_args()
    follower = Follower()
    about = read_about(arguments.clips)
    tracks = [track for file, row in sorted(about.items()) for track in follower.tracks(arguments.clips / file, row)]
    write(tracks, arguments.out)


def write(tracks: list[Track], out: Path) -> None:
    scorer = Scorer(LipSyncScorer(weights.load("builtin")["lip_sync.safetensors"]), DEFAULT_MIN_CONFIDENCE)
    by_kind = kinds(tracks)
    fitted, held_out = (
        by_length(scorer, [track for track, kind in by_kind.items() if kind == group]) for group in (FITTED, HELD_OUT)
    )
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    save(draw(held_out), folder / "lengths.svg")
    out.write_text(page(fitted, held_out, scorer.model.name, folder.name))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
