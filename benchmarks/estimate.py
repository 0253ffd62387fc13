"""Compare what `lipforge prepare --estimate` says with what `lipforge prepare` then does.

python -m benchmarks.estimate [--clips VIDEOS] [--keep FOLDER]

Twice: on the clips as they are, and on talks of two to three minutes that are made of them, where only a sample is
processed. Printed for each number: estimate, its range, the truth, their ratio, and whether the range holds the truth.
The talks take some minutes to make, and preparing them a quarter of an hour on one core; with --keep, these and the
truth are kept there for the next time. Also written to bench/estimate.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import psutil
from rich.console import Console

from benchmarks.long_talks import make_talks
from benchmarks.sources import REAL_CLIPS, talking_photo
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.page import print_page
from lipforge.pipeline.estimate.ranges import Range
from lipforge.pipeline.estimate.run import Estimate, estimate
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.sources.inputs import Labels

OUT = Path("bench/estimate.json")
CONFIG = PrepareConfig.model_validate({"run": {"executor": "local"}})
TEMPLATES = {"clips": None, "talks": "{language}/"}
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    estimate: float
    low: float
    high: float
    truth: float

    @property
    def is_within(self) -> bool:
        slack = 1e-6 * abs(self.truth)
        return self.low - slack <= self.truth <= self.high + slack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of short videos (default: the real clips, if there are)")
    parser.add_argument("--keep", type=Path, help="folder for talks and truth (default: a temporary one)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keep = wanted.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        clips = wanted.clips or (REAL_CLIPS if REAL_CLIPS.is_dir() else keep / "made")
        if not clips.exists():
            clips.mkdir()
            talking_photo(clips, 12)
        make_talks(sorted(path for path in clips.iterdir() if path.suffix != ".csv"), keep / "talks")
        report = {}
        for name, folder in (("clips", clips), ("talks", keep / "talks")):
            print(f"\n== {name}: {folder}", flush=True)
            console = Console(width=100)
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # what loading costs is part of it
                found = fresh.submit(estimated, folder, TEMPLATES[name]).result()
            print_page(console, found, f"lipforge prepare {folder} --executor local --out DATASET")
            truth_file = keep / f"truth-{name}.json"
            if not truth_file.exists():
                truth_file.write_text(json.dumps(prepare(folder, TEMPLATES[name], Path(scratch) / name)))
            rows = list(compare(found, json.loads(truth_file.read_text())))
            show(rows)
            report[name] = [asdict(row) for row in rows]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1))


def estimated(folder: Path, template: str | None) -> Estimate:
    with ProgressLine(Console(stderr=True)) as line:
        return estimate([str(folder)], None, CONFIG, Labels(path_template=template), line)


def prepare(folder: Path, template: str | None, out: Path) -> dict[str, Any]:
    """Really do it, watched from outside: what it took, and what came of it."""
    command = [sys.executable, "-m", "lipforge", "prepare", str(folder), "--out", str(out), "--executor", "local"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    peak_bytes, worker_bytes = 0, 0.0
    process = psutil.Popen([*command, *(["--path-template", template] if template else [])], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak_bytes = max(peak_bytes, size_of(out))
        worker_bytes = max([worker_bytes, *(peak_memory(child.pid) for child in process.children())])
        time.sleep(LOOK_EVERY_S)
    wall_s = time.monotonic() - began_s
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (summary,) = out.glob("runs/*/summary.json")
    made = Totals.of(read_manifest(str(out)))
    return {
        "wall_s": wall_s,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "stage_cpu_s": {stage["name"]: stage["cpu_s"] for stage in json.loads(summary.read_bytes())["stages"]},
        "worker_bytes": worker_bytes,
        "finished_bytes": size_of(out),
        "shard_bytes": size_of(out / "shards"),
        "refused_bytes": size_of(out / "refused"),
        "peak_bytes": max(peak_bytes, size_of(out)),
        "outcome_s": made.seconds_by_outcome,
        "clips": made.clips_by_outcome.get("kept", 0),
    }


def peak_memory(process_id: int) -> float:
    """Bytes."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmHWM:")), default=0.0)


def size_of(folder: Path) -> int:
    """Bytes of all files, also while they come and go."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def compare(found: Estimate, truth: dict[str, Any]) -> Iterator[Row]:
    said = found.forecast

    def row(name: str, unit: str, there: Range, true: float, per_unit: float = 1.0) -> Row:
        return Row(name, unit, there.value / per_unit, there.low / per_unit, there.high / per_unit, true / per_unit)

    yield row("in", "s", said.found_s, sum(truth["outcome_s"].values()))
    zero = Range(0.0, 0.0, said.unseen_s)
    for name in sorted({*said.outcome_s, *truth["outcome_s"]}, key=lambda name: -truth["outcome_s"].get(name, 0.0)):
        yield row(name, "s", said.outcome_s.get(name, zero), truth["outcome_s"].get(name, 0.0))
    yield row("clips", "", said.clips, truth["clips"])
    yield row("CPU", "s", said.cpu_s, truth["cpu_s"])
    for name, cpu_s in truth["stage_cpu_s"].items():
        yield row(f"CPU, {name}", "s", said.stage_cpu_s.get(name, Range(0.0, 0.0, 0.0)), cpu_s)
    yield row("wall, 1 worker", "s", said.crews[0].wall_s, truth["wall_s"])
    yield row("memory of the worker", "MB", said.memory_bytes, truth["worker_bytes"], 1e6)
    yield row("disk, finished", "MB", said.disk.finished, truth["finished_bytes"], 1e6)
    yield row("disk, kept clips", "MB", said.disk.shards, truth["shard_bytes"], 1e6)
    yield row("disk, rejected clips", "MB", said.disk.refused, truth["refused_bytes"], 1e6)
    yield row("disk, at most", "MB", said.disk.peak, truth["peak_bytes"], 1e6)


def show(rows: Sequence[Row]) -> None:
    print(f"\n{'':24}{'estimate':>10}{'from':>10}{'to':>10}{'truth':>10}      {'ratio':>6}  within the range")
    for row in rows:
        ratio = f"{row.estimate / row.truth:6.2f}" if row.truth else "     -"
        numbers = "".join(f"{number:10.1f}" for number in (row.estimate, row.low, row.high, row.truth))
        print(f"{row.name:24}{numbers} {row.unit:4} {ratio}  {'yes' if row.is_within else 'NO'}")
    print(f"{sum(row.is_within for row in rows)} of {len(rows)} ranges hold the truth", flush=True)


if __name__ == "__main__":
    main()
