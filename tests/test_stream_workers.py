"""Loader workers outlive a signal that a scheduler sends to all processes, and end with their own process."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.stream import SampleStream
from tests.stream_clips import coded_dataset, select

LEAVES_AN_ITERATION_OPEN = """
import sys
from lipforge import SampleStream, StreamConfig

stream = SampleStream(StreamConfig(selection=sys.argv[1], num_frames=5, num_workers=2))
sys.kept = iter(stream)  # still there when the interpreter ends
next(sys.kept)
"""


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clips")
    return select(folder / "selection.parquet", coded_dataset(folder / "dataset", [4], 20))


def test_process_that_leaves_an_iteration_open_ends(selection: str) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", LEAVES_AN_ITERATION_OPEN, selection]
    ended = subprocess.run(command, cwd=root, timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_workers_outlive_a_signal_to_all_processes_and_end_with_the_iteration(selection: str) -> None:
    stream = SampleStream(StreamConfig(selection=selection, num_frames=5, num_workers=2))
    before = set(psutil.Process().children())
    batches = iter(stream)
    next(batches)
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    for worker in workers:  # not from this process, as a scheduler's is not
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    for _ in range(8):
        next(batches)
    assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    batches.close()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert (len(gone), alive) == (2, [])
