"""The files in infra/ fit the package: they parse, their commands are ours, and images get what these import."""

import os
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from lipforge.__main__ import app

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
SCRIPTS = sorted((INFRA / "slurm").glob("*.sbatch"))
YAML = [path for path in sorted(INFRA.rglob("*.yaml")) if path.parent.name != "accelerate"]
MODULES = {"lipforge": (), "pipeline": (), "train.features": ("features",)}
"""What `python -m` runs, with the command that it is."""


def commands_in(text: str) -> list[list[str]]:
    """Words after `lipforge` of each command that a text gives to a shell: `lipforge ...`, `python -m pipeline ...`
    or `sbatch infra/slurm/prepare.sbatch ...`."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.lstrip("# "), comments=True) if line.count("'") % 2 == 0 else []
        for number, word in enumerate(words):
            before = words[number - 1] if number else "&&"
            if word == "lipforge" and before in ("&&", "--"):
                found.append(words[number + 1 :])
            elif before == "-m" and word in MODULES:
                found.append([*MODULES[word], *words[number + 1 :]])
            elif before == "sbatch" and word == "infra/slurm/prepare.sbatch":
                found.append(words[number + 1 :])
    return found


def parse(words: list[str]) -> None:
    """As the command line does, without running anything. Raises a usage error of click's."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = command.make_context("lipforge", list(words))
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
    command.make_context(command.name, list(words))


@cache
def blocks() -> str:
    """What docs/cluster.md gives to a shell."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL))


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, the rest) of each instruction of the Dockerfile."""
    text = re.sub(r"^ *#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_commands_of_the_files_for_clusters_are_ours(path: Path):
    commands = commands_in(path.read_text())
    job = yaml.safe_load(path.read_text())
    if job.get("kind") == "RayJob":
        commands.append(shlex.split(job["spec"]["entrypoint"])[1:])
    assert commands
    for words in commands:
        parse(words)


def test_commands_of_the_page_on_clusters_are_ours():
    commands = commands_in(blocks())
    assert {words[0] for words in commands} >= {"prepare", "features", "status"}
    for words in commands:
        parse(words)


def test_a_mistyped_option_is_seen():
    (words,) = commands_in("ray job submit -- lipforge prepare videos --out dataset --wrokers 4")
    with pytest.raises(Exception, match="--wrokers"):
        parse(words)


def test_kubernetes_job_has_room_for_the_workers_that_it_wants():
    job = yaml.safe_load((INFRA / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    low, high = re.findall(r"ray\[default\]>=([\d.]+),<([\d.]+)", (ROOT / "pyproject.toml").read_text())[0]
    assert number(low) <= number(cluster["rayVersion"]) < number(high)
    cpu, gpu = cluster["workerGroupSpecs"]
    words = shlex.split(job["spec"]["entrypoint"])
    workers = int(words[words.index("--workers") + 1])
    cpus, memory = pod_size(cpu)
    assert cpu["minReplicas"] <= cpu["replicas"] <= cpu["maxReplicas"]
    assert workers == cpu["maxReplicas"] * cpus
    assert memory - 8 * 2**30 >= cpus * 2.5e9, "Ray's object store takes as much as the shared memory has"
    assert gpu["maxReplicas"] > gpu["minReplicas"] == 0, "GPUs are started when they are wanted"
    assert pod_size(gpu)[0] >= 4 * 0.25


def pod_size(group: dict) -> tuple[int, int]:
    """(CPUs, bytes) of a pod."""
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"], "Ray counts limits"
    (shm,) = group["template"]["spec"]["volumes"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    size = container["resources"]["limits"]
    return int(size["cpu"]), int(size["memory"].removesuffix("Gi")) * 2**30


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_cluster_on_aws_is_one_that_ray_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((INFRA / "ray_aws.yaml").read_text()))
    validate_config(config)
    head, cpu = (config["available_node_types"][name] for name in ("head", "cpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"], "the run stops with the head"
    assert cpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["setup_commands"] == config["head_setup_commands"] == [], "the defaults install another Ray"
    assert any("RAY_AUTH_MODE=token" in option for option in config["docker"]["run_options"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_batch_scripts_are_bash(path: Path):
    ran = subprocess.run(["bash", "-n", os.fspath(path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_images_get_every_package_that_is_installed():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    ignore = (INFRA / "Dockerfile.dockerignore").read_text().split()
    copies = [rest.split() for instruction, rest in dockerfile() if instruction == "COPY"]
    assert {(name, name) for name in packages} <= {tuple(copy) for copy in copies}
    for *sources, _ in copies:
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore


def test_images_get_what_their_commands_import():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed: dict[str, set[str]] = {}
    target = ""
    for instruction, rest in dockerfile():
        if instruction == "FROM":
            base, _, target = rest.partition(" AS ")
            installed[target] = set(installed.get(base, ()))
        elif instruction == "RUN":
            installed[target] |= set(re.findall(r"\[([\w,]+)\]", rest))
    names = {target: {extra for group in groups for extra in group.split(",")} for target, groups in installed.items()}
    assert names == {"data": {"infer", "evaluate"}, "train": {"infer", "evaluate", "train", "app"}}
    assert names["train"] == set(extras) - {"dev"}
    assert any(requirement.startswith("openai-whisper") for requirement in extras["infer"])
    targets = re.findall(r"docker build .*--target (\w+)", blocks() + (INFRA / "Dockerfile").read_text())
    assert set(targets) == set(names)


def test_images_run_as_a_user_who_may_fetch_models():
    instructions = dockerfile()
    users = [rest for instruction, rest in instructions if instruction == "USER"]
    assert users[-1] == "lipforge"
    fetch = [rest for _, rest in instructions].index
    (made,) = [rest for _, rest in instructions if "install -d -o lipforge" in rest]
    (fetched,) = [rest for _, rest in instructions if "models fetch --yes" in rest]
    assert fetch(made) < fetch("lipforge") < fetch(fetched)
    command = re.findall(r"lipforge (models fetch --yes) ", fetched)[0]
    parse([*command.split(), "whisper"])
