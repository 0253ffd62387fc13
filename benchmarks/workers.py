"""Measure what Ray and a second worker bring: `prepare` without Ray, with one worker and with two, each in turn.

python -m benchmarks.workers [--minutes 1 10 60] [--folder VIDEOS] [--runs local 1 2]

Sets of the wanted length are made from real clips, or a synthetic one: each clip is copied, not encoded again, into as
many files as it takes, which differ by a comment, so that each counts as a source of its own. The baseline is the run
without Ray. Of each run: wall time, its start included; the CPU time of the whole machine, so keep it quiet; the share
of that which stages had; and how busy the CPUs were in each tenth of the run. All runs must give the same shards.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, pairwise
from pathlib import Path

import av

from benchmarks.sources import REAL_CLIPS, talking_photo
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source
from lipforge.pipeline.stages.probe import Probe

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BARS = " ▁▂▃▄▅▆▇█"
_LOOK_EVERY_S = 0.5


def busy_s() -> float:
    """CPU seconds of the whole machine since it started (Linux)."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / _TICKS_PER_S


class BusyCpus:
    """Looks at the CPUs now and then, from its start to `stop`."""

    def __init__(self) -> None:
        self._looks = [(time.monotonic(), busy_s())]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._looks.append((time.monotonic(), busy_s()))

    def stop(self) -> tuple[float, list[float]]:
        """(CPU seconds, CPUs that were busy in each tenth of the time)"""
        self._over.set()
        self._thread.join()
        self._looks.append((time.monotonic(), busy_s()))
        (first_s, before_s), (last_s, after_s) = self._looks[0], self._looks[-1]
        edges = [first_s + (last_s - first_s) * tenth / 10 for tenth in range(11)]
        at = [min(self._looks, key=lambda look: abs(look[0] - edge)) for edge in edges]
        steps = pairwise(at)
        return after_s - before_s, [(b[1] - a[1]) / max(b[0] - a[0], 1e-9) for a, b in steps]


def make_set(folder: Path, clips: list[Path], wanted_s: float) -> float:
    """Copies of clips until they have the wanted length together. Returns it in seconds."""
    folder.mkdir()
    total_s = 0.0
    for number, clip in enumerate(cycle(clips)):
        if total_s >= wanted_s:
            break
        path = folder / f"{number:05d}{clip.suffix}"
        with av.open(str(clip)) as source, av.open(str(path), "w") as made:
            made.metadata["comment"] = str(number)
            streams = {stream.index: made.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    made.mux(packet)
        total_s += Probe().process(Source(str(path))).num_source_frames / FPS
    return total_s


def prepare(folder: Path, out: Path, run: str) -> tuple[float, float, list[float], float, list[str]]:
    """(wall seconds, CPU seconds, busy CPUs by tenth, CPU seconds of stages, names of the shards)"""
    how = ["--executor", "local"] if run == "local" else ["--workers", run]
    cpus, start_s = BusyCpus(), time.monotonic()
    command = [sys.executable, "-m", "lipforge", "prepare", str(folder), "--out", str(out), *how]
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    wall_s = time.monotonic() - start_s
    cpu_s, busy = cpus.stop()
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: exit code {ended.returncode}")
    (summary,) = out.glob("runs/*/summary.json")
    shards = sorted(path.name for path in out.glob("shards/**/*.tar"))
    stages_s = sum(stage["cpu_s"] for stage in json.loads(summary.read_text())["stages"])
    return wall_s, cpu_s, busy, stages_s, shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0], help="lengths of the sets (default: 1)")
    parser.add_argument("--folder", type=Path, help="folder of videos; default: real clips, if present")
    parser.add_argument("--runs", nargs="+", default=["local", "1", "2"], help="in this order (default: local 1 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or (REAL_CLIPS if REAL_CLIPS.is_dir() else None)
        clips = [talking_photo(Path(scratch), 12)]
        if folder is not None:
            found = (Probe().process(Source(str(path))) for path in sorted(folder.iterdir()) if path.suffix != ".csv")
            # Copies of clips that are refused are refused, too: only those that can be used.
            clips = [Path(video.source.uri) for video in found if video.reason is None and video.seconds_in >= 2]
            clips = [clip for clip in clips if clip.suffix in (".mp4", ".webm", ".mkv")]
        for minutes in arguments.minutes:
            measure(Path(scratch) / f"{minutes:g}", clips, minutes * 60, arguments.runs)


def measure(place: Path, clips: list[Path], wanted_s: float, runs: list[str]) -> None:
    place.mkdir()
    seconds = make_set(place / "videos", clips, wanted_s)
    print(f"\n{seconds / 60:.1f} minutes of video, {len(list((place / 'videos').iterdir()))} files", flush=True)
    print(f"{'run':10}{'wall s':>8}{'ratio':>7}{'x real time':>13}{'CPU s':>8}{'in stages':>11}  busy CPUs over time")
    first_s, first_shards = 0.0, []
    for number, run in enumerate(runs):
        wall_s, cpu_s, busy, stages_s, shards = prepare(place / "videos", place / f"out{number}", run)
        first_s, first_shards = first_s or wall_s, first_shards or shards
        bars = "".join(_BARS[min(8, round(8 * cpus / (os.cpu_count() or 1)))] for cpus in busy)
        words = "without Ray" if run == "local" else f"{run} worker" + ("" if run == "1" else "s")
        print(
            f"{words:12}{wall_s:6.1f}{first_s / wall_s:7.2f}{seconds / wall_s:13.2f}{cpu_s:8.1f}"
            f"{stages_s / cpu_s:11.0%}  {bars} {' '.join(f'{cpus:.1f}' for cpus in busy)}",
            flush=True,
        )
        if shards != first_shards:
            sys.exit("the runs gave different shards")
    print(f"all runs gave the same {len(first_shards)} shards", flush=True)


if __name__ == "__main__":
    main()
