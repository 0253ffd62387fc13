"""`lipforge models`: what it says, and how it exits."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lipforge.model.weights import load as weights
from lipforge.model.weights import table
from lipforge.model.weights.table import ModelFile, WebFile
from lipforge.pipeline.cli import app
from tests.web_server import Page, WebServer, web_server

CONTENT = b"seven little weights"
LICENCE = "Toy works: non-commercial research only"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """Two bundles of one file each, both on this server; the second is for non-commercial use."""
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    with web_server() as running:
        default = ModelFile(
            name="default.onnx",
            bundle="builtin",
            purpose="a toy",
            source="Toy works",
            licence="Toy-1.0",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            size_bytes=len(CONTENT),
            origin=WebFile(f"{running.url}/default.onnx"),
        )
        extra = replace(
            default,
            name="extra.onnx",
            bundle="extra",
            licence=LICENCE,
            non_commercial=True,
            origin=WebFile(f"{running.url}/extra.onnx"),
        )
        monkeypatch.setattr(table, "MODEL_FILES", (default, extra))
        running.pages = {"/default.onnx": Page(CONTENT), "/extra.onnx": Page(CONTENT)}
        yield running


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["models", *arguments], input=answer)


def test_list_names_purpose_size_licence_and_state(server: WebServer) -> None:
    run("fetch", "builtin")
    result = run("list")
    assert result.exit_code == 0
    for words in (
        "default.onnx: ok, 0.0 MB",
        "extra.onnx: not fetched",
        "a toy",
        f"licence: {LICENCE}",
        "source: Toy works",
    ):
        assert words in result.output
    assert "default.onnx" not in run("list", "extra").output


def test_verify_is_content_when_only_another_bundle_is_not_fetched(server: WebServer) -> None:
    run("fetch", "builtin")
    result = run("verify")
    assert result.exit_code == 0
    assert "builtin: 1 of 1 files are right" in result.output
    assert "extra: not fetched: lipforge models fetch extra" in result.output


def test_verify_fails_for_what_was_asked_for_and_is_not_there(server: WebServer) -> None:
    assert run("verify").exit_code == 1
    run("fetch", "builtin")
    assert run("verify", "extra").exit_code == 1


def test_verify_fails_for_a_damaged_file_of_any_bundle(server: WebServer) -> None:
    run("fetch", "builtin")
    run("fetch", "extra", "--yes")
    assert run("verify").exit_code == 0
    path = weights.models_folder() / "extra.onnx"
    path.write_bytes(CONTENT[:-1])
    result = run("verify")
    assert result.exit_code == 1
    assert f"{path}: wrong hash" in result.output
    assert "extra: 0 of 1 files are right" in result.output


def test_non_commercial_files_need_an_accepted_licence(server: WebServer) -> None:
    result = run("fetch", "extra")
    assert result.exit_code == 2
    assert LICENCE in result.output
    assert "--yes" in result.output
    assert server.requests == []
    result = run("fetch", "extra", "--yes")
    assert result.exit_code == 0
    assert result.output.index(LICENCE) < result.output.index("downloading")
    assert weights.load("extra") == {"extra.onnx": CONTENT}
    assert run("fetch", "extra").exit_code == 0  # in place: there is nothing to accept


def test_errors_are_plain_messages(server: WebServer) -> None:
    server.pages["/default.onnx"] = Page(status=404)
    result = run("fetch", "builtin")
    assert result.exit_code == 1
    assert "lipforge: " in result.output
    assert "404" in result.output
    assert "By hand" in result.output
    for command in ("list", "fetch", "verify"):
        result = run(command, "nonsense")
        assert result.exit_code == 2
        assert "unknown bundle of model files 'nonsense'; known: builtin, extra" in result.output


def test_a_cache_that_is_no_folder_gives_a_plain_error(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "file"))
    assert "default.onnx: not fetched" in run("list").output
    assert "lipforge models fetch builtin" in run("verify").output
    result = run("fetch", "builtin")
    assert result.exit_code == 1
    assert f"lipforge: cannot make the folder {tmp_path / 'file' / 'models'}" in result.output


def test_a_folder_in_a_files_place_is_kept_under_another_name(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "models" / "default.onnx" / "mine").mkdir(parents=True)
    assert run("verify", "builtin").exit_code == 1
    assert run("fetch", "builtin").exit_code == 0
    assert set(weights.load("builtin")) == {"default.onnx"}
    assert [path.name for path in (tmp_path / "models").glob("*/mine")] == ["mine"]


def test_where_prints_the_folder(server: WebServer, tmp_path: Path) -> None:
    assert run("where").output.strip() == str(tmp_path / "models")


def test_help_names_the_bundles() -> None:
    for command in ("list", "fetch", "verify"):
        output = run(command, "--help").output
        assert all(name in output for name in ("builtin", "latentsync", "stable-syncnet"))


def test_fetch_builtin_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    result = run("fetch", "builtin")
    assert result.exit_code == 0
    assert "face_landmark.tflite: ships with this package" in result.output
    assert not (tmp_path / "cache").exists()
