"""A cluster gives the same bytes as one process."""

import hashlib
import os
from pathlib import Path

import pytest
from rich.console import Console

from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.talking_photo import make_talking_photo

pytestmark = pytest.mark.slow


@pytest.fixture
def two_nodes(monkeypatch):
    """Address of a Ray cluster of two nodes on this machine, each with room for one pair of workers."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 150 * 10**6}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster.address
    cluster.shutdown()


def test_two_nodes_write_the_same_shards_as_one_process(tmp_path, two_nodes):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(3):
        make_talking_photo(videos / f"talking {seed}.mp4", duration_s=6, seed=seed, size_px=320)

    # Two workers need both nodes: each has one CPU.
    settings = ["run.executor=ray", "run.workers=2", "thresholds.min_sync_confidence=0", "thresholds.min_quality=0"]
    on_cluster = run(videos, tmp_path / "cluster", settings)
    alone = run(videos, tmp_path / "local", ["run.executor=local", *settings[2:]])

    assert on_cluster.keys() == alone.keys()
    assert len(alone) > 0
    assert on_cluster == alone


def run(videos: Path, out: Path, settings: list[str]) -> dict[str, str]:
    """sha256 of each shard, by name."""
    config = load_config(PrepareConfig, None, settings)
    prepare([os.fspath(videos)], os.fspath(out), config, Labels("en"), Progress(Console(quiet=True)))
    shards = sorted(out.glob("shards/**/*.tar"))
    return {os.fspath(shard.relative_to(out)): hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
