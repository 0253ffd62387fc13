"""The batch script for Slurm, with stand-ins for its programs: ranks get numbers; a stopped job is queued again."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "infra" / "slurm" / "train.sbatch"
SRUN = """#!/bin/bash
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 "$@" || code=$?; done
exit ${code:-0}
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "scontrol $*"; fi
"""
PYTHON = """#!/bin/bash
echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT: $*"
exit CODE
"""


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (143, ["scontrol requeue 40007"])])
def test_tasks_are_ranks_and_a_job_that_saved_is_queued_again(tmp_path: Path, code: int, requeued: list[str]):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, content in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON.replace("CODE", str(code))}.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    (programs / "activate").write_text("")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "40007",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    command = ["bash", str(SCRIPT), "train.stage1", "--config", "a b.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    ranks = [f"{rank} of 2, {rank} of 2 at node1:20007: -m train.stage1 --config a b.yaml" for rank in (0, 1)]
    assert ended.stdout.splitlines() == [*ranks, *requeued]
