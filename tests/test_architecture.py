"""The layout is the architecture: imports point one way, files stay short, and docs/architecture.md tells the truth."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "datasets_manifest": {"datasets_manifest"},
    "model": {"model"},
    "pipeline": {"pipeline", "model", "datasets_manifest"},
    "train": {"train", "pipeline", "model", "datasets_manifest"},
}
"""Which top-level folders a folder may import: arrows point down only."""
MAX_LINES = 400


def modules() -> dict[str, Path]:
    """Dotted name below the root, and file."""
    found = {}
    for folder in MAY_IMPORT:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, known: dict[str, Path], only_at_import: bool = False) -> set[str]:
    """Modules of ours that a file imports. only_at_import: not those inside functions or for type checkers."""
    tree = ast.parse(path.read_text())
    nodes = list(_run_at_import(tree)) if only_at_import else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("lipforge.") for name in names if name.removeprefix("lipforge.") in known}


def _run_at_import(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_import(child)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down(folder: str):
    known = modules()
    up = {
        name: sorted(wrong)
        for name, path in known.items()
        if name.partition(".")[0] == folder
        and (wrong := {found for found in imports_of(path, known) if found.partition(".")[0] not in MAY_IMPORT[folder]})
    }
    assert up == {}


def test_no_module_imports_itself_through_others():
    known = modules()
    graph = {name: imports_of(path, known, only_at_import=True) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_file_is_long():
    files = [*modules().values(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "lipforge").rglob("*.py")]
    long = {
        str(path.relative_to(ROOT)): count
        for path in files
        if (count := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_the_ways_name_at_most_six_files_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    ways = re.findall(r"^## The way of .*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(ways) == 4
    for way in ways:
        files = re.findall(r"^\d+\. \[`?([^`\]]+)`?\]\(\.\./([^)]+)\)", way, re.MULTILINE)
        assert 1 <= len(files) <= 6
        assert [name for name, link in files if name != link or not (ROOT / link).is_file()] == []
