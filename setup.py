"""Installed, each top-level folder is a package inside `lipforge`. All else about the package is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("datasets_manifest", "model", "pipeline", "train")
found = find_packages(include=[pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")])

setup(
    packages=["lipforge", *(f"lipforge.{name}" for name in found)],
    package_dir={f"lipforge.{folder}": folder for folder in FOLDERS},
)
