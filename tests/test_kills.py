"""Kill workers and drivers at random: the result must be that of an undisturbed run."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from tests.talking_photo import make_talking_photo

NUM_KILLS = int(os.environ.get("LIPFORGE_TEST_KILLS", "30"))
NUM_SOURCES = 6


def delivered(dataset: Path) -> tuple[dict[str, str], bytes]:
    """Hashes of shards, and all bytes of the manifest in force."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset.glob("shards/*/*.tar")}
    generation = last_generation(Store(str(dataset)))
    assert found and generation is not None
    rows = b"".join((dataset / file["name"]).read_bytes() for file in generation.files)
    return found, to_json({"files": generation.files, "about": generation.about}) + rows


def command(videos: Path, dataset: Path, *options: str) -> list[str]:
    base = [sys.executable, "-m", "pipeline", "prepare", str(videos), "--out", str(dataset), "--language", "en"]
    return [*base, "--set", "pack.shard_size_mb=1", *options]


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    children = driver.children(recursive=True)
    return [child for child in children if any("ray::_Actor" in part for part in child.cmdline()[:1])]


def kill_something(driver: subprocess.Popen, chance: random.Random) -> str:
    """SIGKILL one worker or the driver: which, or "" when there was nothing to kill."""
    try:
        workers = workers_of(psutil.Process(driver.pid))
        if chance.random() < 0.3:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            return "driver"
        if workers:
            chance.choice(workers).kill()
            return "worker"
    except psutil.NoSuchProcess:
        pass
    return ""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_random_kills_change_nothing(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(NUM_SOURCES):
        make_talking_photo(videos / f"{seed}.mp4", duration_s=11.0, av_offset_frames=seed - 3, seed=seed, size_px=384)
    subprocess.run(command(videos, tmp_path / "calm", "--executor", "local"), check=True)

    chance = random.Random(7)
    wild = tmp_path / "wild"
    kills: Counter[str] = Counter()
    deadline = time.monotonic() + 2400
    while True:
        log = (tmp_path / "wild.log").open("ab")
        driver = subprocess.Popen(command(videos, wild, "--workers", "2"), stdout=log, stderr=log)
        while driver.poll() is None and time.monotonic() < deadline:
            time.sleep(chance.uniform(1.0, 6.0))
            if kills.total() < NUM_KILLS and (killed := kill_something(driver, chance)):
                kills[killed] += 1
        if driver.poll() == 0 and kills.total() >= NUM_KILLS:
            break
        assert time.monotonic() < deadline, f"only {kills} in time"
        if driver.returncode == 0:  # done before all kills were used: forget what was sealed, keep the rest
            for path in [*wild.glob("ledger/segments/*.000.parquet"), *wild.glob("manifest/*")]:
                path.unlink()
    assert kills["worker"] > NUM_KILLS // 4 and kills["driver"] > 0
    assert delivered(wild) == delivered(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.parametrize("first_s", [1.5, 4.0])  # while Ray starts; while workers do
def test_ctrl_c_pressed_again_and_again_ends_in_one_sentence(tmp_path, first_s):
    make_talking_photo(tmp_path / "talk.mp4", duration_s=11.0, size_px=384)
    driver = subprocess.Popen(
        command(tmp_path / "talk.mp4", tmp_path / "out", "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    time.sleep(first_s)
    for _ in range(8):
        os.killpg(driver.pid, signal.SIGINT)  # a terminal reaches all of its processes
        time.sleep(0.15)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert said.strip().endswith("lipforge: stopped. Finished work is safe; the same command continues from here.")
    assert "Traceback" not in said
