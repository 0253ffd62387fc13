"""Measure peak memory of prepare's operators on a short and a long source: does it grow with length?

python -m benchmarks.memory [--minutes N]

The source is one talking clip, repeated by copying its packets. Each length runs in a process of its own, which handles
all units in sequence, as one worker would.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import av

from benchmarks.sources import talking_photo
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.weights import load as weights
from lipforge.pipeline.clip import Source
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.settings import resolve
from lipforge.pipeline.recipe import CutOperator, ScoreOperator
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.probe import Probe

CLIP_S = 16
"""Whole numbers of video frames (400 at 25 fps) and AAC frames (750 of 1024 samples at 48 kHz): repeats have no gap."""
SHORT_MINUTES = 2.0


def repeat(clip: Path, path: Path, minutes: float) -> None:
    """Write a video of about this many minutes, without encoding."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        copies = []
        for packet in packets:
            assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
            copies.append((packet, packet.pts, packet.dts, round(CLIP_S / packet.time_base)))
        for number in range(max(1, round(minutes * 60 / CLIP_S))):
            for packet, pts, dts, length in copies:
                if 0 <= pts < length:
                    packet.pts, packet.dts = pts + number * length, dts + number * length
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)


def run_all(path: Path) -> None:
    """Run all units of a video through cut and score; print length, units and peak resident memory in MB."""
    models = weights.load("builtin")
    config, hashes = resolve(PrepareConfig(), models)
    video = Probe().process(Source(str(path)))
    units = plan_units(video, config.resample.max_span_s)
    with tempfile.TemporaryDirectory() as folder:
        cut = CutOperator(config, models)
        score = ScoreOperator(config, models, Store(folder), hashes)
        deque((score.process(cut.process(unit)) for unit in units), maxlen=0)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{video.seconds_in / 60:7.1f} min {len(units):4} units peak {peak_mb:8.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the long source (default: 10)")
    parser.add_argument("--video", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.video:
        run_all(arguments.video)
        return
    with tempfile.TemporaryDirectory() as scratch:
        clip = talking_photo(Path(scratch), CLIP_S)
        for minutes in (SHORT_MINUTES, arguments.minutes):
            path = Path(scratch) / "long.mp4"
            repeat(clip, path, minutes)
            subprocess.run([sys.executable, "-m", "benchmarks.memory", "--video", str(path)], check=True)


if __name__ == "__main__":
    main()
