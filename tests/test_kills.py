"""Kill workers and drivers at random: the result must be that of an undisturbed run."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
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
    return [child for child in children if any("Map(" in part for part in child.cmdline()[:1])]


def kill_something(driver: subprocess.Popen, chance: random.Random) -> bool:
    """SIGKILL one worker or the driver; False when there was nothing to kill."""
    try:
        workers = workers_of(psutil.Process(driver.pid))
        if chance.random() < 0.3:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        elif workers:
            chance.choice(workers).kill()
        else:
            return False
    except psutil.NoSuchProcess:
        return False
    return True


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
    kills = 0
    deadline = time.monotonic() + 2400
    while True:
        log = (tmp_path / "wild.log").open("ab")
        driver = subprocess.Popen(command(videos, wild, "--workers", "2"), stdout=log, stderr=log)
        while driver.poll() is None and time.monotonic() < deadline:
            time.sleep(chance.uniform(1.0, 6.0))
            if kills < NUM_KILLS and kill_something(driver, chance):
                kills += 1
        if driver.poll() == 0 and kills >= NUM_KILLS:
            break
        assert time.monotonic() < deadline, f"only {kills} kills in time"
        if driver.returncode == 0:  # done before all kills were used: forget what was sealed, keep the rest
            for path in [*wild.glob("ledger/segments/*.000.parquet"), *wild.glob("manifest/*")]:
                path.unlink()
    assert delivered(wild) == delivered(tmp_path / "calm")
