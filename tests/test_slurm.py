"""The batch scripts for Slurm, with stand-ins for its programs: ranks get numbers, nodes a Ray; a stopped job is queued
again."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.test_cluster_files import parse

FOLDER = Path(__file__).parents[1] / "infra" / "slurm"
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


RAY = """#!/bin/bash
echo "ray $*" >>calls
[ "$1" = symmetric-run ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
COMMAND = """#!/bin/bash
printf '%s\\n' "$RAY_AUTH_MODE" "$RAY_ADDRESS" "$SRUN_CPUS_PER_TASK" "$@"
exit CODE
"""


def run(folder: Path, script: str, programs: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A batch script in a folder with a virtual environment of stand-ins."""
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name, content in {"scontrol": SCONTROL, **programs}.items():
        (bin_ / name).write_text(content)
        (bin_ / name).chmod(0o755)
    (bin_ / "activate").write_text("")
    environment = {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "40007",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = ["bash", str(FOLDER / script), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (143, ["scontrol requeue 40007"])])
def test_tasks_are_ranks_and_a_job_that_saved_is_queued_again(tmp_path: Path, code: int, requeued: list[str]):
    programs = {"srun": SRUN, "python": PYTHON.replace("CODE", str(code))}
    ended = run(tmp_path, "train.sbatch", programs, "train.stage1", "--config", "a b.yaml")
    assert ended.returncode == code, ended.stderr
    ranks = [f"{rank} of 2, {rank} of 2 at node1:20007: -m train.stage1 --config a b.yaml" for rank in (0, 1)]
    assert ended.stdout.splitlines() == [*ranks, *requeued]


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_runs_on_a_ray_of_all_nodes_and_ends_them(tmp_path: Path, code: int):
    programs = {
        "srun": '#!/bin/bash\n[ "$1" = --no-kill ] && shift && SLURM_STEP_ID=0 "$@"\nexit 15',  # its step is cancelled
        "ray": RAY,
        "python": COMMAND.replace("CODE", str(code)),
        "scancel": '#!/bin/bash\necho "scancel $*"',
    }
    words = ["prepare", "/data/my videos", "--out", "/data/dataset"]
    ended = run(tmp_path, "prepare.sbatch", programs, *words)
    assert (ended.returncode, ended.stderr) == (code, "")
    assert ended.stdout.splitlines() == ["token", "node1:6379", "16", "-m", "lipforge", *words, "scancel 40007.0"]
    parse(words)
    token, started = (tmp_path / "calls").read_text().splitlines()[:2]
    assert token == "ray get-auth-token --generate"
    assert started.startswith(
        "ray symmetric-run --address node1:6379 --min-nodes 2 --num-cpus 16 --disable-usage-stats"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "calls"]


def test_ray_takes_what_it_is_told(tmp_path: Path):
    from ray.scripts.scripts import start, symmetric_run

    script = re.sub(r"\\\n *", "", (FOLDER / "prepare.sbatch").read_text())
    (words,) = re.findall(r"ray symmetric-run (.*) -- ", script)
    options = symmetric_run.make_context("", words.replace('"$SLURM_JOB_NUM_NODES"', "2").split())
    assert options.params["min_nodes"] == 2
    words = " ".join(options.params["ray_args_and_entrypoint"]).replace('"$SLURM_CPUS_PER_TASK"', "16")
    started = start.make_context("", words.split())
    assert (started.params["num_cpus"], started.params["disable_usage_stats"]) == (16, True)


def test_a_job_at_its_time_limit_is_queued_again(tmp_path: Path):
    srun = "#!/bin/bash\nkill -USR1 $PPID\nexec sleep 0.2"
    ended = run(tmp_path, "prepare.sbatch", {"srun": srun, "ray": RAY}, "prepare")
    assert ended.stdout.splitlines() == ["scontrol requeue 40007"]
    signal = re.search(r"#SBATCH --signal=B:(\w+)@", (FOLDER / "prepare.sbatch").read_text())
    assert signal is not None
    assert signal.group(1) == "USR1"
