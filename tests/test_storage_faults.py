"""Storage that fails is told from a damaged file: what could not be read gets no verdict, and is not forgotten."""

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import done_units, write_part
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.media import source_file
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.probe import VideoInfo, probe
from lipforge.pipeline.media.source_file import NotThereError, SourceFile, StorageError
from lipforge.pipeline.media.video import decode_video
from lipforge.pipeline.running import watch
from lipforge.pipeline.running.explain import explain
from lipforge.pipeline.running.status import read_status
from lipforge.pipeline.running.workers import Job, UnitWorker
from lipforge.pipeline.stages.probe import content_hash
from tests.coded import noise, write_coded
from tests.conftest import run_prepare
from tests.faulty_storage import FaultySource
from tests.loopback import serving

FAULTS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, None)
NUM_REGIONS = 12
NUM_FRAMES = 100


def _frames(uri: str, info: VideoInfo) -> list[tuple[float, bool]]:
    return [(frame.time_s, frame.image is None) for frame in decode_video(uri, info, 0, info.num_frames)]


def _audio(uri: str, info: VideoInfo) -> tuple[list[float], list[bool], str]:
    sound = read_audio(uri, info, 0, info.num_frames)
    return sound.samples.tolist(), sound.has_audio.tolist(), sound.downmix


STAGES: dict[str, Callable[[str, VideoInfo], Any]] = {
    "hash": lambda uri, info: content_hash(uri),
    "probe": lambda uri, info: probe(uri),
    "video": _frames,
    "audio": _audio,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """4 s in each container; index first, last or nowhere."""
    folder = tmp_path_factory.mktemp("healthy")
    times_s, audio = [n / 25 for n in range(NUM_FRAMES)], noise(64_000)
    return {
        "mkv": write_coded(folder / "a.mkv", times_s, audio),
        "mp4": write_coded(folder / "a.mp4", times_s, audio, acodec="aac"),
        "fast": write_coded(
            folder / "fast.mp4", times_s, audio, acodec="aac", container_options={"movflags": "faststart"}
        ),
        "ts": write_coded(folder / "a.ts", times_s, audio, acodec="aac"),
        "avi": write_coded(folder / "a.avi", times_s, audio, fixed_rate=True),
    }


@pytest.mark.parametrize("name", ["mkv", "mp4", "fast", "ts", "avi"])
def test_a_read_that_fails_anywhere_is_never_a_verdict(
    name: str, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each region of the file, for each stage and fault: StorageError, or the region was not needed."""
    path = videos[name]
    info, size = probe(str(path)), path.stat().st_size
    met = dict.fromkeys(STAGES, 0)
    for stage, run_stage in STAGES.items():
        healthy = run_stage(str(path), info)
        for region in range(NUM_REGIONS):
            start, end = size * region // NUM_REGIONS, size * (region + 1) // NUM_REGIONS
            with monkeypatch.context() as patch:
                faults = FaultySource(path, start, end, FAULTS[region % len(FAULTS)]).install(patch)
                if stage == "hash" or faults_are_met(run_stage, path, info, faults):
                    met[stage] += 1
                    with pytest.raises(StorageError):
                        run_stage(str(path), info)
                else:
                    assert run_stage(str(path), info) == healthy
    assert all(met.values()), met


def faults_are_met(run_stage: Callable[[str, VideoInfo], Any], path: Path, info: VideoInfo, faults: Any) -> bool:
    """Whether the stage reads the faulty region at all: some skip, for instance, the index at the end."""
    try:
        run_stage(str(path), info)
    except StorageError:
        return True
    return faults.num_failures > 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_read_that_fails_for_a_while_changes_nothing(
    stage: str, fault: int | None, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos["ts"]
    info = probe(str(path))
    healthy = STAGES[stage](str(path), info)
    faults = FaultySource(path, 40_000, 60_000, fault, fails_left=3).install(monkeypatch)
    assert STAGES[stage](str(path), info) == healthy
    assert faults.num_failures == 3


def test_a_file_that_shrinks_while_it_is_read_is_not_judged(videos: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    shutil.copy(videos["mkv"], path)
    with SourceFile(str(path)) as file:
        file.read(1000)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_file, "WAITS_S", (0.0,))
            file.seek(6000)
            assert file.read(10) == b""
        with pytest.raises(StorageError, match=r"ends at byte 6000 of|changed while"):
            file.check()


def test_what_is_not_there_is_no_fault_of_storage(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "none.mp4"), str(tmp_path), "foo://x/y.mp4", str(tmp_path / ("x" * 300))):
        with pytest.raises(NotThereError):
            SourceFile(uri)


def outcomes(out: Path) -> list[tuple[str, float]]:
    table = read_manifest(str(out))
    rows = table.select(["reason", "start_s", "accounted_s"]).to_pylist()
    return [(row["reason"] or "kept", round(row["accounted_s"], 2)) for row in rows]


@pytest.mark.parametrize("fault", [errno.EIO, None])
def test_units_of_failing_storage_stay_undone_and_the_next_run_does_them(
    fault: int | None, talking_clip: Path, tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, other = tmp_path / "videos" / "a.mp4", tmp_path / "videos" / "b.mkv"
    video.parent.mkdir()
    shutil.copy(talking_clip, video)
    write_coded(other, [n / 25 for n in range(50)], noise(32_000))
    run_prepare([str(video.parent)], tmp_path / "healthy")
    size = video.stat().st_size
    probed = FaultySource(video, 0, size, fault)

    def units_meet_the_fault(*arguments: Any) -> Any:
        probed.start, probed.end = size // 2, size // 2 + 20_000
        return real(*arguments)

    real = UnitWorker.__call__
    probed.start = probed.end = 0
    with monkeypatch.context() as patch:
        probed.install(patch)
        patch.setattr(UnitWorker, "__call__", units_meet_the_fault)
        summary = run_prepare([str(video.parent)], tmp_path / "dataset")
    assert not summary.is_complete
    assert [error["source_uri"] for error in summary.storage_errors] == [str(video)]
    assert summary.storage_errors[0]["seconds"] == pytest.approx(6.4)
    assert "storage_error" in summary.losses()[0]
    assert outcomes(tmp_path / "dataset") == [("no_face", 2.0)]  # the other source is done, this one has no verdict
    summary = run_prepare([str(video.parent)], tmp_path / "dataset")
    assert summary.is_complete
    assert outcomes(tmp_path / "dataset") == outcomes(tmp_path / "healthy")
    shards = [sorted(p.read_bytes() for p in (tmp_path / d / "shards").rglob("*.tar")) for d in ("healthy", "dataset")]
    assert shards[0] == shards[1] and len(shards[0]) == 1


def test_a_source_that_cannot_be_probed_is_probed_by_the_next_run(
    tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = tmp_path / "a.mkv", tmp_path / "dataset"
    write_coded(video, [n / 25 for n in range(50)], noise(32_000))
    with monkeypatch.context() as patch:
        FaultySource(video).install(patch)
        summary = run_prepare([str(video)], out)
        assert not summary.is_complete and outcomes(out) == [("storage_error", 0.0)]
    assert run_prepare([str(video)], out).is_complete
    assert outcomes(out) == [("no_face", 2.0)]
    with monkeypatch.context() as patch:  # what is known of a source outlives a storage that fails later
        FaultySource(video).install(patch)
        video.touch()
        assert not run_prepare([str(video)], out).is_complete
    assert outcomes(out) == [("no_face", 2.0)]


@pytest.mark.parametrize("how", ["replaced", "truncated"])
def test_a_source_that_changes_between_probe_and_units_has_no_rows_of_both(
    how: str, tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = tmp_path / "a.mkv", tmp_path / "dataset"
    write_coded(video, [n / 25 for n in range(50)], noise(32_000))
    other = write_coded(tmp_path / "b.mkv", [n / 25 for n in range(75)], noise(48_000, 1)).read_bytes()
    real = UnitWorker.__call__

    def units_of_a_changed_file(*arguments: Any) -> Any:
        video.write_bytes(other if how == "replaced" else video.read_bytes()[:40_000])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "__call__", units_of_a_changed_file)
        summary = run_prepare([str(video)], out)
    assert "changed while it was in use" in summary.storage_errors[0]["detail"] and outcomes(out) == []
    assert run_prepare([str(video)], out).is_complete
    if how == "replaced":
        assert outcomes(out) == [("no_face", 3.0)]


@contextmanager
def failing_server(folder: Path, statuses: list[int]) -> Iterator[str]:
    """Answers ranges; each entry of `statuses` is one answer with that status first: 0 breaks the connection off."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            with lock:
                status = statuses.pop(0) if with_body and statuses else 200
            content = (folder / self.path.lstrip("/")).read_bytes()
            if status == 0:
                self.send_response(206)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:100])
                self.close_connection = True
                return
            if status != 200:
                content = b""
            wanted = self.headers.get("Range", "")
            start, end = 0, len(content)
            if status == 200 and wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end, status = int(first), min(int(last or end - 1) + 1, len(content)), 206
            self.send_response(status)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.end_headers()
            if with_body:
                self.wfile.write(content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


@pytest.mark.parametrize("status", [403, 500, 503, 0])
def test_a_server_that_fails_for_a_while_changes_nothing(
    status: int, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_file, "WAITS_S", (0.0,) * 4)
    statuses: list[int] = []
    with failing_server(videos["ts"].parent, statuses) as url:
        uri = f"{url}/a.ts"
        info = probe(uri)
        healthy = _frames(uri, info)
        assert healthy == _frames(str(videos["ts"]), info)
        statuses[:] = [status] * 3
        assert _frames(uri, info) == healthy and not statuses
        statuses[:] = [status] * 100
        with pytest.raises(StorageError, match=r"a\.ts"):
            _frames(uri, info)


def damaged(number: int) -> dict[str, Any]:
    return {"unit_id": f"unit-{number}", "rows": [{"reason": "decode_error"}]}


def healthy(number: int) -> dict[str, Any]:
    return {"unit_id": f"unit-{number}", "rows": [{"reason": None}]}


def watched(outcomes: list[Any], store: Store, **limits: float) -> int:
    """How many outcomes pass the watch. Their records are in the store."""
    for outcome in outcomes:
        write_part(store, outcome, {})
    config = PrepareConfig.model_validate({"run": limits})
    unit_watch = watch.UnitWatch(Job(store, config, {}, {}, "run"))
    for outcome in outcomes:
        unit_watch.count(outcome)
    return len(outcomes)


def test_a_sudden_rise_of_damage_stops_the_run_and_is_done_again(tmp_path: Path) -> None:
    """What storage returns without an error may be wrong, too."""
    store = Store(str(tmp_path))
    outcomes = [*map(healthy, range(100)), *map(damaged, range(100, 200))]
    with pytest.raises(DatasetError, match=r"21 of the last 40 units cannot be decoded.*max_decode_error_ratio=1"):
        watched(outcomes, store)
    assert done_units(store) == {f"unit-{n}" for n in range(100)} | {f"unit-{n}" for n in range(121, 200)}
    assert watched(outcomes, store, max_decode_error_ratio=1.0) == 200
    mixed = [damaged(n) if n % 2 else healthy(n) for n in range(200)]  # as bad from the start: half is still let pass
    assert watched(mixed, store) == 200


def test_status_and_explain_tell_of_what_is_undone(
    talking_clip: Path, tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = tmp_path / "a.mkv", tmp_path / "dataset"
    write_coded(video, [n / 25 for n in range(50)], noise(32_000))
    real = UnitWorker.__call__
    with monkeypatch.context() as patch:
        faults = FaultySource(video, fails_left=0).install(patch)

        def units_meet_the_fault(*arguments: Any) -> Any:
            faults.fails_left = 1 << 30
            return real(*arguments)

        patch.setattr(UnitWorker, "__call__", units_meet_the_fault)
        run_prepare([str(video)], out)
    assert "1 source is not done" in read_status(str(out)).words
    with pytest.raises(DatasetError, match=r"a\.mkv is not done yet: .*cannot be read"):
        explain(str(out), "a.mkv")
    run_prepare([str(video)], out)
    assert "not done" not in read_status(str(out)).words
    assert "no_face" in "\n".join(explain(str(out), "a.mkv"))
