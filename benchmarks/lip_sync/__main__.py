"""Evaluates the built-in lip-sync scorer on clips that training never saw, and writes a page of results.

    python -m benchmarks.lip_sync CLIPS --out docs/models/lip_sync_results.md [--weights FILE]

CLIPS holds videos and a clips.csv with the columns file, trainable, natural_sync, native_av_offset_frames and language.
Faces are followed as in `lipforge prepare`. Apart from timings, page and figures are the same on every run.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import numpy as np

from benchmarks.lip_sync import cases, figures
from benchmarks.lip_sync.clips import CLEAN, Follower, Track, kinds, read_about
from benchmarks.lip_sync.engine import run_engine, usable
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.measures import Scorer, Scores, Window, measure, windows
from benchmarks.lip_sync.page import write_page
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE
from lipforge.model.weights import load as weights

LENGTHS = (50, 75, 117, 125, 250)
"""Window lengths in frames: 2, 3, 4.7, 5 and 10 s. Several clips are a little shorter than 5 s."""
TABLE_LENGTH = 117
CHANCE_LENGTHS_S = (2, 3, 5, 7.5, 10, 15, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of videos with clips.csv")
    parser.add_argument("--out", type=Path, required=True, help="the page (.md); figures go into a folder of its name")
    parser.add_argument("--weights", type=Path, help="weights to score with; by default the shipped ones")
    arguments = parser.parse_args()
    content = arguments.weights.read_bytes() if arguments.weights else weights.load("builtin")["lip_sync.safetensors"]
    try:
        evidence = gather(arguments.clips, content)
    except ValueError as error:
        sys.exit(str(error))
    write(evidence, arguments.out)


def gather(folder: Path, content: bytes) -> Evidence:
    """Measure everything, printing a line of progress per part. content: the scorer's weights.

    Raises ValueError if the folder has no clips.csv, or no clean clip that is long enough.
    """
    about = read_about(folder)
    scorer = Scorer(LipSyncScorer(content), DEFAULT_MIN_CONFIDENCE)
    say = _Progress()
    follower = Follower()
    tracks: list[Track] = []
    unusable = []
    for number, (file, row) in enumerate(sorted(about.items()), start=1):
        found = follower.tracks(folder / file, row)
        if number % 10 == 0:
            say(f"faces of {number} of {len(about)} videos")
        tracks += found
        if not found:
            unusable.append(file)
    by_kind = kinds(tracks)
    clean = [track for track, kind in by_kind.items() if kind == CLEAN]
    say(f"{len(tracks)} faces in {len(about)} files; {len(clean)} are clean")
    if not windows(clean, 125):
        raise ValueError(f"{folder}: no clip of 5 s is clean and unseen by training; clips.csv says what each clip is")
    by_length: dict[int, Scores] = {}
    for length in LENGTHS:
        parts = windows(clean, length)
        if parts:
            by_length[length] = measure(scorer, parts)
        say(f"{len(parts)} windows of {length / 25:g} s")
    whole = cases.whole_tracks(scorer, by_kind)
    faces = cases.by_face(scorer, by_kind, TABLE_LENGTH)
    several = cases.turns(scorer, [track for track, kind in by_kind.items() if kind == "several faces"])
    chances = cases.chance_by_length(scorer, by_kind, CHANCE_LENGTHS_S)
    say("whole clips, several faces, chance by length")
    listeners = [track for track, kind in by_kind.items() if kind == "silent audio"]
    long = [track for track in clean if track.num_frames >= TABLE_LENGTH]
    changed_audio = list(cases.changed_audio(scorer, long, listeners, TABLE_LENGTH))
    say("changed audio")
    changed_video = list(cases.changed_video(scorer, follower, long, folder, TABLE_LENGTH))
    say("changed video")
    with tempfile.TemporaryDirectory() as scratch:
        engine = run_engine(scorer, content, usable(tracks), folder, Path(scratch))
    say(f"planted offsets through prepare: {len(engine.found)} clips")
    speed_ms = time_scorer(scorer, windows(clean, 125))
    return Evidence(
        scorer,
        by_kind,
        unusable,
        by_length,
        whole,
        faces,
        changed_audio,
        changed_video,
        several,
        chances,
        engine,
        speed_ms,
    )


def time_scorer(scorer: Scorer, parts: list[Window]) -> float:
    """Median CPU milliseconds to score 5 s."""
    times_ms = []
    for part in parts:
        audio = part.audio()
        began_s = time.process_time()
        scorer.model.score(part.points, part.mouths, audio)
        times_ms.append(1000 * (time.process_time() - began_s))
    return float(np.median(times_ms))


def write(evidence: Evidence, out: Path) -> None:
    """Write the page, and its figures into a folder beside it."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    threshold = evidence.scorer.min_confidence
    chances = {chance.length_s: chance for chance in evidence.chances}
    lengths = [length for length in (75, 125, 250) if length in evidence.by_length]
    curves = [evidence.by_length[length] for length in lengths], [chances[length / 25] for length in lengths]
    drawn = {
        "thresholds": figures.draw_thresholds(*curves, threshold),
        "chance": figures.draw_chance(evidence.chances, threshold),
        "planted": figures.draw_planted(evidence.engine),
    }
    if evidence.turns:
        drawn["turns"] = figures.draw_turns(evidence.turns)
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.svg")
    write_page(evidence, out)
    print(f"wrote {out}")


@dataclass
class _Progress:
    """Prints lines with the time since the start."""

    began_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self.began_s:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
