"""The package as users get it: a wheel beside modules of their own, and a checkout that nobody installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.talking_photo import make_talking_photo

ROOT = Path(__file__).parents[1]
RAISES = 'raise RuntimeError("a module of the user was imported")\n'


def run(python: Path, *arguments: str, cwd: Path) -> str:
    """Standard output of a Python without PYTHONPATH, which must end well."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def new_environment(folder: Path) -> tuple[Path, Path]:
    """(python, site-packages) that sees the dependencies of this environment, and not its lipforge.

    A .pth file adds the site-packages of this environment. The .pth files there, the editable install among them, are
    not processed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("export")
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "lipforge"
    shutil.copytree(export, source)  # building leaves files behind
    built = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    run(Path(sys.executable), "-c", build, cwd=source)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel."""
    python, packages = new_environment(tmp_path_factory.mktemp("environment") / "installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user whose own modules have the names of our folders."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("train.py", "pipeline.py", "datasets_manifest.py", "model/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(RAISES)
    return folder


def test_the_wheel_owns_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in names} == {"lipforge", f"lipforge-{version}.dist-info"}
    report = {f"lipforge/datasets_manifest/report/report.{kind}" for kind in ("html", "css", "js")}
    assert report <= set(names)
    assert "lipforge/model/weights/files/lip_sync.safetensors" in names


def test_the_face_of_the_library_beside_modules_of_the_user(installed: Path, project: Path) -> None:
    script = """
import lipforge, lipforge.model
from lipforge import FeatureStore, SampleStream, StreamConfig, read_manifest, read_selection, select
from importlib.metadata import entry_points

for name in lipforge.model.__dict__.get("__all__", []):
    getattr(lipforge.model, name)
(command,) = {entry.value for entry in entry_points(group="console_scripts", name="lipforge")}
print(lipforge.__file__, command, lipforge.__version__)
"""
    (project / "face.py").write_text(script)
    file, command, version = run(installed, "face.py", cwd=project).split()
    assert Path(file).is_relative_to(installed.parents[1])
    assert command == "lipforge.__main__:main"
    assert run(installed, "-m", "lipforge", "--version", cwd=project).split() == ["lipforge", version]
    assert "prepare" in run(installed, "-m", "lipforge", "--help", cwd=project)


def test_from_video_to_batch_with_the_installed_package(
    installed: Path, project: Path, models: dict[str, bytes]
) -> None:
    """On Ray, whose workers must find the installed package, and with a worker of a DataLoader."""
    (project / "videos").mkdir()
    make_talking_photo(project / "videos" / "talking.mp4", duration_s=6, size_px=320)
    thresholds = ["--set", "thresholds.min_sync_confidence=0", "--set", "thresholds.min_quality=0"]
    prepare = ["prepare", "videos", "--out", "dataset", "--language", "en", "--workers", "1", *thresholds]
    run(installed, "-m", "lipforge", *prepare, cwd=project)
    select = ["select", "dataset", "--language", "en", "--hours", "0.001", "--out", "en.parquet"]
    run(installed, "-m", "lipforge", *select, cwd=project)
    script = """
from lipforge import SampleStream, StreamConfig

batch = next(iter(SampleStream(StreamConfig(selection="en.parquet", num_workers=1))))
print(*batch["target"].shape, *batch["mel"].shape)
"""
    (project / "batch.py").write_text(script)
    assert run(installed, "batch.py", cwd=project).split() == ["1", "16", "256", "256", "3", "1", "80", "52"]


def test_a_checkout_works_without_an_install(export: Path, tmp_path: Path) -> None:
    python, _ = new_environment(tmp_path / "bare")
    missing = "import importlib.util; print(importlib.util.find_spec('lipforge'))"
    assert run(python, "-c", missing, cwd=tmp_path).strip() == "None"
    assert "prepare" in run(python, "-m", "pipeline", "--help", cwd=export)
    assert "SELECTION" in run(python, "-m", "train.features", "--help", cwd=export)
    files = "import lipforge.pipeline; print(lipforge.pipeline.__file__, lipforge.__file__)"
    assert all(Path(file).is_relative_to(export) for file in run(python, "-c", files, cwd=export).split())


@pytest.mark.parametrize(
    "module", ["pipeline", "datasets_manifest", "train.features", "train.stream.preview", "lipforge"]
)
def test_no_module_is_imported_under_two_names(module: str) -> None:
    script = f"""
import runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit:
    pass
names = {{}}
for name, loaded in sys.modules.items():
    file = getattr(loaded, "__file__", None) or ""
    if name != "__main__" and file.startswith({str(ROOT)!r}) and not file.startswith(sys.prefix):  # .venv may lie there
        names.setdefault(file, {{}})[id(loaded)] = name
print("loaded", len(names), [list(twice.values()) for twice in names.values() if len(twice) > 1])
"""
    last = run(Path(sys.executable), "-c", script, cwd=ROOT).splitlines()[-1].split(maxsplit=2)
    assert int(last[1]) > 1
    assert last[2] == "[]"
