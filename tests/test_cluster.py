"""A cluster gives the same bytes as one process."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from lipforge.datasets_manifest.select.choose import choose
from lipforge.datasets_manifest.select.request import Request
from lipforge.datasets_manifest.selection import write_selection
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.maintain import collect_garbage, export_dataset, prune
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.made_dataset import MadeSource, make_dataset
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


def test_two_nodes_export_prune_and_tidy_up_as_one_process(tmp_path, two_nodes, monkeypatch):
    make_dataset(tmp_path / "first", [MadeSource("one", [{}] * 9), MadeSource("two", [{"quality": 1.0}] * 9)])
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    table = choose(Request(datasets=(str(tmp_path / "first"),), window_frames=1)).table
    write_selection(str(tmp_path / "all.parquet"), table, {})

    def change(dataset: Path, out: Path) -> dict[str, bytes]:
        export_dataset(str(tmp_path / "all.parquet"), str(out), 0.1, lambda done, total: None)
        prune(str(dataset))
        collect_garbage(str(dataset))
        files = [path for folder in (dataset, out / "shards", out / "ledger") for path in folder.rglob("*")]
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files if path.is_file()}

    shared = change(tmp_path / "first", tmp_path / "out-first")
    monkeypatch.delenv("RAY_ADDRESS")
    alone = change(tmp_path / "second", tmp_path / "out-second")
    assert len(alone) > 10 and shared == {name.replace("second", "first"): data for name, data in alone.items()}


def run(videos: Path, out: Path, settings: list[str]) -> dict[str, str]:
    """sha256 of each shard, by name."""
    config = load_config(PrepareConfig, None, settings)
    prepare([os.fspath(videos)], os.fspath(out), config, Labels("en"), Progress(Console(quiet=True)))
    shards = sorted(out.glob("shards/**/*.tar"))
    return {os.fspath(shard.relative_to(out)): hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
