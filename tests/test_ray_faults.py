"""On Ray: a unit that crashes its worker natively, or hangs, fails alone; the others are kept."""

import ctypes
import os
import shutil
import time

import pytest
from rich.console import Console

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline import flow
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.media.source_file import StorageError
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import workers
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.talking_photo import make_talking_photo


class FaultyUnitWorker(workers.UnitWorker):
    """The real worker, which some sources crash or hang."""

    def __init__(self, job):
        super().__init__(job)
        real = self.cut.operator.process

        def process(unit):
            name = os.path.basename(unit.video.source.uri)
            if name == "crash.mp4":
                ctypes.string_at(0)
            if name == "hang.mp4":
                time.sleep(600)
            if name == "bug.mp4":
                raise TypeError("a bug")
            if name == "storage.mp4":
                raise StorageError("storage.mp4 cannot be read")
            return real(unit)

        self.cut.operator.process = process


def outcome(folder, *names: str, unit_timeout_s: float) -> dict[str, dict]:
    """Prepare a good source and others with these names. Returns the main row of each, by name."""
    videos = folder / "videos"
    videos.mkdir()
    make_talking_photo(videos / "good.mp4", duration_s=6.0, size_px=320)
    for name in names:
        shutil.copy(videos / "good.mp4", videos / name)
        with open(videos / name, "ab") as file:  # other content, or they would be duplicates
            file.write(name.encode())
    settings = load_config(
        PrepareConfig, None, ["run.workers=2", "run.max_attempts=2", f"run.unit_timeout_s={unit_timeout_s}"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "UnitWorker", FaultyUnitWorker)
        summary = prepare([str(videos)], str(folder / "out"), settings, Labels(), Progress(Console(quiet=True)))
    assert summary.finished_at is not None
    undone = [os.path.basename(error["source_uri"]) for error in summary.storage_errors]
    assert undone == [name for name in names if name == "storage.mp4"]
    table = read_manifest(str(folder / "out")).to_pylist()
    assert sum(row["accounted_s"] for row in table) == pytest.approx(6.0 * (1 + len(names) - len(undone)))
    return {os.path.basename(row["source_uri"]): row for row in table if row["accounted_s"] > 1}


def test_a_crash_a_bug_and_failing_storage_are_those_of_their_unit_alone(tmp_path):
    rows = outcome(tmp_path, "crash.mp4", "bug.mp4", "storage.mp4", unit_timeout_s=600)
    assert (rows["crash.mp4"]["status"], rows["crash.mp4"]["reason"]) == ("failed", "worker_crashed")
    assert "Segmentation fault in 2 attempts" in rows["crash.mp4"]["detail"]
    assert (rows["bug.mp4"]["status"], rows["bug.mp4"]["reason"]) == ("failed", "internal_error")
    assert "TypeError: a bug at test_ray_faults.py" in rows["bug.mp4"]["detail"]
    assert "storage.mp4" not in rows
    assert rows["good.mp4"]["status"] == "kept"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hang_fails_its_unit_alone(tmp_path):
    # Long enough for the good unit on a busy machine, short enough to wait for two attempts.
    rows = outcome(tmp_path, "hang.mp4", unit_timeout_s=40)
    assert (rows["hang.mp4"]["status"], rows["hang.mp4"]["reason"]) == ("failed", "timeout")
    assert rows["good.mp4"]["status"] == "kept"
