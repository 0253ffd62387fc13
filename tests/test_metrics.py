"""What a run says of its units and machines: an event for each, and metrics that Prometheus can scrape."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from lipforge.pipeline import flow
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import workers
from lipforge.pipeline.running.metrics import RayMetrics
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.coded import noise, write_coded
from tests.conftest import run_prepare


def events(out: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(out.glob("runs/*/events/*.jsonl")) for line in path.open()]


def test_each_unit_leaves_an_event(tmp_path: Path, models: dict) -> None:
    for seed in (0, 1):
        write_coded(tmp_path / f"{seed}.mkv", [n / 25 for n in range(50)], noise(32_000, seed))
    run_prepare([str(tmp_path)], tmp_path / "dataset")
    found = events(tmp_path / "dataset")
    assert sorted(os.path.basename(event["source_uri"]) for event in found) == ["0.mkv", "1.mkv"]
    for event in found:
        assert event["seconds"] == {"no_face": 2.0} and event["attempts"] == 1 and event["undone"] is None
        assert event["wall_s"] > 0 and event["stage_cpu_s"]["track_faces"] > 0 and event["host"]


class SlowUnitWorker(workers.UnitWorker):
    def __call__(self, unit):
        time.sleep(5)
        return super().__call__(unit)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_shows_in_the_metrics(tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 150 * 10**6})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setattr(flow, "UnitWorker", SlowUnitWorker)
    for seed in range(6):
        write_coded(tmp_path / f"{seed}.mkv", [n / 25 for n in range(50)], noise(32_000, seed))
    scraped: list[str] = []
    done = threading.Event()

    def kill_one_and_scrape() -> None:
        import ray

        port = None
        while not done.wait(1.0):
            if port is None and ray.is_initialized():
                port = ray.nodes()[0]["MetricsExportPort"]
                busy = [
                    p for p in psutil.process_iter(["name", "cmdline"]) if "_Actor.run" in " ".join(p.info["cmdline"])
                ]
                if not busy:
                    port = None
                    continue
                os.kill(busy[0].pid, signal.SIGKILL)
            if port is not None:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                    scraped.append(page.read().decode())

    thread = threading.Thread(target=kill_one_and_scrape)
    thread.start()
    config = load_config(PrepareConfig, None, ["run.executor=ray", "run.workers=2"])
    try:
        prepare([str(tmp_path)], str(tmp_path / "dataset"), config, Labels(), Progress(Console(quiet=True)))
    finally:
        done.set()
        thread.join()
        cluster.shutdown()
    lines = [line for page in scraped for line in page.splitlines() if "lipforge_" in line and not line.startswith("#")]
    assert any("lipforge_worker_deaths_total" in line and line.endswith(" 1.0") for line in lines)
    assert any("lipforge_video_seconds" in line and 'outcome="no_face"' in line for line in lines)
    assert any("lipforge_unit_wall_per_video_second" in line for line in lines)
    assert len(events(tmp_path / "dataset")) == 6


def test_the_dashboard_draws_metrics_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str] = {}

    class Metric:
        def __init__(self, name: str, *_: object, **__: object) -> None:
            made[name] = type(self).__name__

    kinds = {kind: type(kind, (Metric,), {}) for kind in ("Counter", "Gauge", "Histogram")}
    for kind, replacement in kinds.items():
        monkeypatch.setattr(f"ray.util.metrics.{kind}", replacement)
    RayMetrics()
    suffixes = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
    exported = {f"ray_{name}{suffix}" for name, kind in made.items() for suffix in suffixes[kind]}
    dashboard = json.loads((Path(__file__).parents[1] / "infra" / "grafana.json").read_text())
    drawn = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_lipforge_[a-z_]+", target["expr"])
    }
    assert drawn and drawn <= exported
    assert {name.removesuffix("_total").removesuffix("_bucket") for name in drawn} == {f"ray_{name}" for name in made}
