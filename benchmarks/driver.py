"""Measure what a task costs the driver of a run on Ray: tasks that do nothing, more workers wanted than have room.

python -m benchmarks.driver [--workers 1600] [--tasks 1000]

A Ray of two CPUs is started on this machine. Workers without room are pending actors, which the driver waits for as it
does for busy ones. CPU seconds are the driver's own; tasks a second depend on Ray's daemons and both workers, too.
"""

import argparse
import os
import time

WARM_UP = 200
"""Tasks, while workers start."""


def do_nothing(number: int) -> dict[str, object]:
    """About as large as a unit's outcome."""
    return {"unit_id": f"{number:040}", "rows": [{"kept": 1.0}] * 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1600)
    parser.add_argument("--tasks", type=int, default=1000)
    wanted = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback alone
    from ray.cluster_utils import Cluster

    from lipforge.pipeline.config import RunConfig
    from lipforge.pipeline.running.on_ray import RayExecutor

    node = {"num_cpus": 2, "memory": 10**10, "object_store_memory": 150 * 10**6, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    executor = RayExecutor(RunConfig(workers=wanted.workers))
    results = executor.map(do_nothing, list(range(WARM_UP + wanted.tasks)))
    for _ in range(WARM_UP):
        next(results)
    cpu_s, wall_s = time.process_time(), time.monotonic()
    num_tasks = sum(1 for _ in results)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    print(f"{wanted.workers} workers: {1e3 * cpu_s / num_tasks:.2f} ms CPU a task, {num_tasks / wall_s:.0f} tasks/s")
    executor.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
