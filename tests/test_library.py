"""The Python on the pages about the library runs as it is written there."""

import re
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lipforge
from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.selection import write_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.train.features.write import ClipFeatures, write_index, write_shard
from tests.stream_clips import coded_dataset

DOCS = Path(__file__).parents[1] / "docs"
CLIP_FRAMES = 70
MODELS = {
    "whisper": "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
    "mel": "mel-1",
    "vae_target": "...",
    "vae_masked": "...",
}
"""As the pages name them."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset, selections and features that the pages name."""
    folder = tmp_path_factory.mktemp("library")
    rows = coded_dataset(folder / "dataset", [3, 2], CLIP_FRAMES)
    known: dict[str, Any] = {
        "language": "hi",
        "speaker": "one",
        "duration_s": CLIP_FRAMES / 25,
        "sync_confidence": 5.0,
        "sync_model": "s",
        "config_hash": "c",
    }
    clips = [{**row, **known, "source_id": row["key"], "start_s": 0.0, "track_index": 0} for row in rows.to_pylist()]
    write_manifest(str(folder / "dataset"), [{k: v for k, v in clip.items() if k in COLUMNS.names} for clip in clips])
    table = pa.Table.from_pylist(clips, rows.schema)
    write_selection(str(folder / "zh20.parquet"), table, {})
    for name in ("zh20-features", "hi20-features"):
        store = Store(str(folder / name))
        index = write_shard(store, "s", [features_of(clip["key"]) for clip in clips], MODELS)
        write_index(store, index)
    return folder


def features_of(key: str) -> ClipFeatures:
    shapes = {
        "whisper": (2 * CLIP_FRAMES, 2, 4),
        "mel": (1 + CLIP_FRAMES * 16 // 5, 80),
        "vae_target": (CLIP_FRAMES, 8, 16, 16),
        "vae_masked": (CLIP_FRAMES, 8, 16, 16),
    }
    return ClipFeatures(key, CLIP_FRAMES, "c", {kind: np.zeros(shape, np.float16) for kind, shape in shapes.items()})


@pytest.mark.parametrize("page", ["library.md", "stream.md", "features.md"])
def test_snippets_run(page: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(here)
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    given = {
        "accelerator": SimpleNamespace(process_index=0, num_processes=1),
        "resuming": False,
        "islice": islice,
    }
    for snippet in snippets:
        small = snippet.replace("hours=20.0", "hours=0.003").replace("in stream:", "in islice(stream, 2):")
        exec(compile(small, page, "exec"), dict(given))
    assert len(snippets) >= 1
    if page == "library.md":
        assert capsys.readouterr().out == "one 0.00 h\n"


def test_the_page_lists_the_names_of_the_package() -> None:
    text = (DOCS / "library.md").read_text()
    assert {name for name in lipforge.__all__ if f"| `{name}(" not in text} == set()
    for path in re.findall(r"^\| `(lipforge\.[\w.]+)` \|", text, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), path
