"""A cluster gives the same bytes as one process, and nodes that join it get work."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from lipforge.datasets_manifest.select.choose import choose
from lipforge.datasets_manifest.select.request import Request
from lipforge.datasets_manifest.selection import write_selection
from lipforge.pipeline import flow
from lipforge.pipeline.config import PrepareConfig, RunConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.maintain import collect_garbage, export_dataset, prune
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import on_ray, workers
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.made_dataset import MadeSource, make_dataset
from tests.talking_photo import make_talking_photo
from tests.whisper_file import whisper_file

pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "memory": 3 * 10**9, "object_store_memory": 150 * 10**6}
"""Has room for one worker."""


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of one node on this machine."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


LISTENING = """
import psutil, ray
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
ray.get(ray.remote(lambda: 0).remote())
us = [psutil.Process(), *psutil.Process().children(recursive=True)]
print({socket.laddr.ip for one in us for socket in one.net_connections("inet") if socket.status == "LISTEN"})
"""


def test_ray_can_be_told_to_listen_on_loopback_alone():
    """As docs/cluster.md says."""
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    ran = subprocess.run(
        [sys.executable, "-c", LISTENING], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    addresses = set(ran.stdout.strip("{}\n").replace("'", "").split(", "))
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}


def where(item: int) -> str:
    """The node that this ran on, after a while."""
    import ray

    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()


def nodes_used(executor: on_ray.RayExecutor, add_node) -> set[str]:
    """By tasks, one of which is always just done. A node is added after the first."""
    used = set()
    for number, node in enumerate(executor.map(where, list(range(120)))):
        if number == 0:
            add_node()
        used.add(node)
        if len(used) == 2:
            break
    return used


def test_a_node_that_joins_is_used_while_others_are_busy(cluster, monkeypatch):
    monkeypatch.setattr(on_ray, "_LOOK_EVERY_S", 5.0)
    executor = on_ray.RayExecutor(RunConfig())
    try:
        assert executor.num_workers == 1
        assert len(nodes_used(executor, lambda: cluster.add_node(**NODE))) == 2
        assert executor.num_workers == 2
    finally:
        executor.close()


def test_workers_without_room_are_a_demand_that_an_autoscaler_sees(cluster):
    from ray.autoscaler.v2.sdk import get_cluster_status

    def add_node():
        demands = get_cluster_status(cluster.address).resource_demands.ray_task_actor_demand
        missing = [(dict(by.bundle), by.count) for demand in demands for by in demand.bundles_by_count]
        assert missing == [({"CPU": 1.0, "memory": 2.5e9}, 1)]
        cluster.add_node(**NODE)

    executor = on_ray.RayExecutor(RunConfig(workers=2))
    try:
        assert len(nodes_used(executor, add_node)) == 2
    finally:
        executor.close()


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for seed in range(3):
        make_talking_photo(folder / f"talking {seed}.mp4", duration_s=6, seed=seed, size_px=320)
    return folder


ALL = ["thresholds.min_sync_confidence=0", "thresholds.min_quality=0"]


@pytest.mark.parametrize("how", [["run.workers=2"], ["run.workers=1", "run.score_workers=1", "run.score.cpus=1"]])
def test_two_nodes_write_the_same_shards_as_one_process(tmp_path, cluster, videos, how):
    """Also when what one node has cut is scored on the other: each has one CPU."""
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    on_cluster = run(videos, tmp_path / "cluster", ["run.executor=ray", *how, *ALL])
    alone = run(videos, tmp_path / "local", ["run.executor=local", *ALL])
    assert len(alone) > 0
    assert on_cluster == alone


class Held(workers.UnitWorker):
    """Says in a file which node it begins on, and waits until it may go on."""

    def __call__(self, unit):
        import ray

        folder = Path(unit.video.source.uri).parent.parent / "begun"
        (folder / unit.unit_id).write_text(ray.get_runtime_context().get_node_id())
        while not (folder / "go").exists():
            time.sleep(0.1)
        return super().__call__(unit)


def test_workers_that_share_a_gpu_score_and_hear_languages(tmp_path, monkeypatch, videos):
    """It has a GPU for Ray and none for torch, so they compute on the CPU, which is said once."""
    pytest.importorskip("whisper")
    whisper = tmp_path / "mine.pt"
    whisper.write_bytes(whisper_file("hi"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    node = {**NODE, "num_cpus": 2, "num_gpus": 1, "memory": 6 * 10**9}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    both = [f"language.whisper={whisper}", *ALL]
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        on_gpus = run(videos, tmp_path / "cluster", ["run.executor=ray", "run.score.gpus=0.5", *both], None)
    finally:
        cluster.shutdown()
    alone = run(videos, tmp_path / "local", ["run.executor=local", *both], None)
    assert on_gpus == alone
    assert all(name.startswith("shards/hi/") for name in alone)
    (summary,) = (tmp_path / "cluster" / "runs").glob("*/summary.json")
    notes = json.loads(summary.read_text())["notes"]
    assert [note for note in notes if "torch cannot use" in note] == notes and len(notes) == 1


def test_a_node_that_dies_loses_nothing(tmp_path, cluster, videos, monkeypatch):
    begun = tmp_path / "begun"
    begun.mkdir()
    second = cluster.add_node(**NODE)
    cluster.wait_for_nodes()

    def kill() -> None:
        while len({path.read_text() for path in begun.iterdir()} - {""}) < 2:
            time.sleep(0.2)
        cluster.remove_node(second, allow_graceful=False)
        (begun / "go").touch()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(flow, "UnitWorker", Held)
        on_cluster = run(videos, tmp_path / "cluster", ["run.executor=ray", "run.workers=2", *ALL])
    thread.join()
    assert on_cluster == run(videos, tmp_path / "local", ["run.executor=local", *ALL])
    events = [json.loads(line) for path in tmp_path.glob("cluster/runs/*/events/*") for line in path.open()]
    assert sorted(event["attempts"] for event in events) == [1, 1, 2]


def test_when_the_head_dies_the_next_run_goes_on(tmp_path, cluster, videos, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    command = [
        sys.executable,
        "-m",
        "lipforge",
        "prepare",
        str(videos),
        "--out",
        str(tmp_path / "cluster"),
        "--language",
    ]
    settings = [word for setting in ALL for word in ("--set", setting)]
    driver = subprocess.Popen([*command, "en", *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("cluster/parts/*.tar")):  # one unit is done
        assert driver.poll() is None
        time.sleep(0.1)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    assert driver.wait(timeout=120) != 0
    monkeypatch.delenv("RAY_ADDRESS")
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cluster/parts/*.tar")}
    local = ["run.executor=local", *ALL]
    again = run(videos, tmp_path / "cluster", local)
    assert done and again == run(videos, tmp_path / "local", local)
    events = [line for path in tmp_path.glob("cluster/runs/*/events/*") for line in path.open()]
    assert len(events) == 3 - len(done)  # what was done is not done again


def test_two_nodes_export_prune_and_tidy_up_as_one_process(tmp_path, cluster, monkeypatch):
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
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


def run(videos: Path, out: Path, settings: list[str], language: str | None = "en") -> dict[str, str]:
    """sha256 of each shard, by name."""
    config = load_config(PrepareConfig, None, settings)
    prepare([os.fspath(videos)], os.fspath(out), config, Labels(language), Progress(Console(quiet=True)))
    shards = sorted(out.glob("shards/**/*.tar"))
    return {os.fspath(shard.relative_to(out)): hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
