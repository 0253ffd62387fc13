"""How well voices tell speakers apart, and what that costs.

    python -m benchmarks.voices errors LIST.csv [LIST.csv ...]     columns: path, speaker; sound or video files
    python -m benchmarks.voices cost

`errors` joins the sound of each speaker, in the order of the list, and cuts it into pieces of equal length, at most 40
a speaker. It prints equal error rates over all pairs of pieces; then what `assign` makes of sources of one or five
pieces, with one threshold after the other. Several lists: each by itself, then all together.
`cost` times the encoder and the clustering, on made voices that are alike about as often as real ones.
"""

import argparse
import csv
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import av
import numpy as np

from lipforge.model.audio.voice import FILE, VoiceEncoder
from lipforge.model.clock import SAMPLE_RATE_HZ
from lipforge.model.weights.load import load_file
from lipforge.pipeline.publish.linkage import average_linkage
from lipforge.pipeline.publish.voices import SAME_VOICE, SourceClips, assign, likenesses

LENGTHS_S = (0.5, 1, 2, 3, 5, 10)
SOURCES = ((2, 1), (3, 1), (5, 1), (10, 1), (3, 5))
"""Seconds of a clip, and clips of a source."""
THRESHOLDS = (0.58, 0.60, 0.62, 0.64, 0.66)
MOST_PIECES = 40


class Pieces:
    """Embeddings of pieces of one length, and who speaks in each."""

    def __init__(self, encoder: VoiceEncoder, sounds: dict[str, np.ndarray], length_s: float) -> None:
        size = round(length_s * SAMPLE_RATE_HZ)
        found: list[np.ndarray] = []
        speakers: list[str] = []
        for speaker, sound in sounds.items():
            pieces = sound[: len(sound) // size * size].reshape(-1, size)
            chosen = np.unique(np.linspace(0, len(pieces) - 1, min(len(pieces), MOST_PIECES)).astype(int))
            found.append(encoder.embed_clips(list(pieces[chosen])))
            speakers += [speaker] * len(chosen)
        embeddings = np.concatenate(found)
        heard = embeddings.any(axis=1)
        self.embeddings = embeddings[heard].astype(np.float16)
        self.speakers = np.array(speakers)[heard]
        self.length_s = length_s


def read_sounds(path: str) -> dict[str, np.ndarray]:
    """Sound of each speaker of a list, float32 mono at 16 kHz."""
    found = defaultdict(list)
    with open(path, newline="") as stream:
        for row in csv.DictReader(stream):
            found[row["speaker"]].append(read_sound(row["path"]))
    return {speaker: np.concatenate(sounds) for speaker, sounds in sorted(found.items())}


def read_sound(path: str) -> np.ndarray:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    blocks = [np.empty(0, np.float32)]
    with av.open(path) as container:
        for frame in container.decode(audio=0):
            frame.pts = None
            blocks += [block.to_ndarray()[0] for block in resampler.resample(frame)]
    blocks += [block.to_ndarray()[0] for block in resampler.resample(None)]
    return np.concatenate(blocks)


def print_pairs(pieces: Pieces) -> None:
    above = np.triu_indices(len(pieces.speakers), 1)
    is_same = (pieces.speakers[:, None] == pieces.speakers)[above]
    alike = likenesses(pieces.embeddings, np.full(len(pieces.speakers), pieces.length_s))[above]
    same, other = np.sort(alike[is_same]), np.sort(alike[~is_same])
    if not len(same) or not len(other):
        return
    steps = np.unique(alike)
    missed = np.searchsorted(same, steps) / len(same)
    mistaken = 1 - np.searchsorted(other, steps) / len(other)
    equal = int(np.abs(missed - mistaken).argmin())
    print(
        f"| {pieces.length_s:g} | {len(set(pieces.speakers))} | {len(pieces.speakers)} | "
        f"{50 * (missed[equal] + mistaken[equal]):.1f} | {steps[equal]:.2f} | {100 * np.mean(same < SAME_VOICE):.1f} | "
        f"{100 * np.mean(other >= SAME_VOICE):.1f} |",
        flush=True,
    )


def print_voices(pieces: Pieces, clips_each: int, same_voice: float, says_who: bool) -> None:
    places = np.arange(len(pieces.speakers))
    of_speakers = (places[pieces.speakers == speaker] for speaker in np.unique(pieces.speakers))
    groups = [some[at : at + clips_each] for some in of_speakers for at in range(0, len(some), clips_each)]
    sources = [
        SourceClips(
            [f"{place:06d}" for place in group],
            pieces.embeddings[group],
            [0] * len(group),
            [pieces.length_s] * len(group),
            [None] * len(group),
        )
        for group in groups
    ]
    voices = assign(sources, same_voice=same_voice).of_clips
    found, speakers = np.array([rows[0] for rows in voices]), pieces.speakers[[group[0] for group in groups]]
    by_voice, by_speaker = defaultdict(Counter), defaultdict(Counter)
    for voice, speaker in zip(found.tolist(), speakers.tolist(), strict=True):
        by_voice[voice][speaker] += 1
        by_speaker[speaker][voice] += 1
    above = np.triu_indices(len(found), 1)
    is_one, is_same = (found[:, None] == found)[above], (speakers[:, None] == speakers)[above]
    split, mixed_pairs = np.mean(~is_one[is_same]), np.mean(is_one[~is_same])
    pure = sum(max(counts.values()) for counts in by_voice.values()) / len(found)
    whole = sum(max(counts.values()) for counts in by_speaker.values()) / len(found)
    print(
        f"| {clips_each} x {pieces.length_s:g} | {same_voice:.2f} | {len(by_speaker)} | {len(by_voice)} | "
        f"{100 * pure:.1f} | {100 * whole:.1f} | {100 * split:.1f} | {100 * mixed_pairs:.2f} |",
        flush=True,
    )
    if says_who:
        mixed = [dict(counts) for counts in by_voice.values() if len(counts) > 1]
        print(f"\nOne voice for several, with {same_voice}: {mixed}\n")


def errors(paths: Sequence[str]) -> None:
    encoder = VoiceEncoder(load_file(FILE))
    lists = {path: read_sounds(path) for path in paths}
    if len(lists) > 1:
        lists["all"] = {f"{path} {name}": sound for path, sounds in lists.items() for name, sound in sounds.items()}
    for path, sounds in lists.items():
        print(f"\n{path}: {len(sounds)} speakers, {sum(map(len, sounds.values())) / SAMPLE_RATE_HZ:.0f} s\n")
        print(f"| s | speakers | pieces | EER % | at | missed % at {SAME_VOICE} | mistaken % at {SAME_VOICE} |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        by_length = {length_s: Pieces(encoder, sounds, length_s) for length_s in LENGTHS_S}
        for pieces in by_length.values():
            print_pairs(pieces)
        print(
            "\n| s | threshold | speakers | voices | purity % | in its main voice % | split pairs % | mixed pairs % |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for length_s, clips_each in SOURCES:
            for same_voice in THRESHOLDS:
                print_voices(by_length[length_s], clips_each, same_voice, says_who=same_voice == SAME_VOICE)


def cost() -> None:
    encoder = VoiceEncoder(load_file(FILE))
    draws = np.random.default_rng(0)
    for length_s in (2, 5, 10):
        clips = [draws.normal(0, 0.1, length_s * SAMPLE_RATE_HZ).astype(np.float32) for _ in range(16)]
        started_s = time.process_time()
        encoder.embed_clips(clips)
        spent_s = time.process_time() - started_s
        print(f"encoder, clips of {length_s} s: {1000 * spent_s / 16 / length_s:.1f} CPU ms per second of sound")
    embeddings = np.abs(draws.normal(size=(100_000, 256))).astype(np.float16)
    ids = [f"{number:032x}" for number in range(len(embeddings))]
    seconds, tracks, labels = [5.0] * 100, [number // 5 for number in range(100)], [None] * 100
    started_s = time.process_time()
    assign(
        SourceClips(ids[at : at + 100], embeddings[at : at + 100], tracks, seconds, labels)
        for at in range(0, 100_000, 100)
    )
    print(f"1,000 sources of 100 clips of 20 tracks: {time.process_time() - started_s:.1f} CPU s")
    for num_voices in (10_000, 30_000, 100_000):
        vectors, num_speakers = made_voices(num_voices, draws)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        found = average_linkage(vectors, np.ones(num_voices), 0, SAME_VOICE)
        print(
            f"{num_voices} voices of {num_speakers} speakers: {time.perf_counter() - started_s:.0f} s, "
            f"{time.process_time() - started_cpu_s:.0f} CPU s, {len(set(found.tolist()))} found, "
            f"largest {np.bincount(found).max()}, peak of the process "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB",
            flush=True,
        )


def made_voices(num_voices: int, draws: np.random.Generator) -> tuple[np.ndarray, int]:
    """float32 [num_voices, 256], and how many speakers: a third as many, a few with very many voices."""

    def directions(*shape: int) -> np.ndarray:
        drawn = draws.normal(size=shape)
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)

    num_speakers = num_voices // 3
    speaker = (num_speakers * draws.random(num_voices) ** 2).astype(int)
    differences = directions(num_speakers, 8) @ np.linalg.qr(draws.normal(size=(256, 8)))[0].T
    noise = 0.32 * draws.uniform(0.5, 1.5, (num_voices, 1)) * directions(num_voices, 256)
    voices = 0.74 / 16 + 0.59 * differences[speaker] + noise
    return (0.87 * voices / np.linalg.norm(voices, axis=1, keepdims=True)).astype(np.float32), len(set(speaker))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("errors").add_argument("lists", nargs="+")
    commands.add_parser("cost")
    arguments = parser.parse_args()
    if arguments.command == "errors":
        errors(arguments.lists)
    else:
        cost()


if __name__ == "__main__":
    main()
