"""The app without a browser: whose files are given to whom, the queue, what is kept."""

import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lipforge.pipeline.app import jobs as app_jobs
from lipforge.pipeline.app.jobs import Job, Jobs, Kind, State
from lipforge.pipeline.app.pairs import pair_up
from lipforge.pipeline.app.shelf import Shelf
from lipforge.pipeline.infer.protocols import Cancelled
from lipforge.pipeline.infer.request import InferConfig, InferError, InferResult, SamplingConfig

pytest.importorskip("gradio")

from lipforge.pipeline.app.handlers import track_choices
from lipforge.pipeline.app.serve import Running
from lipforge.pipeline.app.settings import to_config
from tests.app_server import Browser, serving

PUBLISHED = (20, 1.5, "ddim", 1247, 0, 1000, "loop", "silence", 50, 0, False, "builtin")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("app"), most_upload_bytes=1 << 20) as app:
        yield app


@pytest.fixture
def ann(running: Running) -> Browser:
    return Browser(running)


@pytest.fixture
def bob(running: Running) -> Browser:
    return Browser(running)


# --- files -----------------------------------------------------------------------------------------


def test_an_upload_is_given_to_who_sent_it_and_to_nobody_else(ann: Browser, bob: Browser) -> None:
    path = ann.send("talk.mp4", b"secret")
    assert ann.file(path) == (200, b"secret")
    assert bob.file(path)[0] == 403
    bob.http.cookies.clear()
    assert bob.file(path)[0] == 403


@pytest.mark.parametrize(
    "crafted",
    [
        "/etc/hostname",
        "../../../../etc/hostname",
        "{upload}/../../../lock",
        "{upload}%2f..%2f..%2f..%2flock",
        "{run}/lock",
        "{run}/jobs",
        "{link}",
        "{folder_link}/hostname",
        "{upload}%00.mp4",
        "file:///etc/hostname",
        "http://127.0.0.1:{port}/config",
        "//etc/hostname",
    ],
)
def test_nothing_but_own_uploads_is_in_reach(ann: Browser, running: Running, crafted: str) -> None:
    upload = Path(ann.send("talk.mp4", b"own"))
    run_folder = upload.parents[2]
    for name, target in (("link.mp4", "/etc/hostname"), ("folder", "/etc")):
        link = upload.with_name(name)
        if not link.is_symlink():
            os.symlink(target, link)
    places = {"upload": upload, "run": run_folder, "link": upload.with_name("link.mp4")}
    wanted = crafted.format(
        **places, folder_link=upload.with_name("folder"), port=running.url.split(":")[-1].strip("/")
    )
    assert ann.file(wanted)[0] in (403, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/file/etc/hostname",
        "/gradio_api/run/refresh",
        "/gradio_api/component_server",
        "/gradio_api/info",
        "/monitoring",
        "/static/../../etc/hostname",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/hostname",
        "/assets/..%2f..%2f..%2f..%2fetc%2fhostname",
        "/docs",
        "/mine/../config",
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(ann: Browser, path: str) -> None:
    assert ann.get_as_written(path)[0] in (403, 404)


def _join(user: Browser, *data: Any) -> Any:
    call = {"data": list(data), "fn_index": 0, "session_hash": "abc", "trigger_id": 1}
    return user.http.post("/gradio_api/queue/join", json=call)


def test_a_call_cannot_name_a_file_of_another_user_or_another_machine(ann: Browser, bob: Browser) -> None:
    path = ann.send("talk.mp4", b"secret")
    for named in (path, "/etc/hostname", "http://127.0.0.1:9/a.mp4"):
        file = {"path": named, "meta": {"_type": "gradio.FileData"}}
        assert _join(bob, file).status_code == 403
        assert _join(bob, [[{"video": file}]]).status_code == 403
    assert bob.http.post("/gradio_api/queue/join", content=b"{").status_code == 400


def test_a_file_that_is_too_large_is_refused_while_it_comes(ann: Browser) -> None:
    answer = ann.http.post("/gradio_api/upload", files={"files": ("big.mp4", bytes((1 << 20) + 1))})
    assert answer.status_code == 413


def test_the_page_lets_the_browser_ask_no_other_machine(ann: Browser) -> None:
    answer = ann.http.get("/")
    rules = answer.headers["content-security-policy"]
    assert "default-src 'self'" in rules and "http:" not in rules and "https:" not in rules and "*" not in rules
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["']?https?:""", answer.text)


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(running: Running) -> None:
    cookie = Browser(running).http.get("/", headers={"cookie": "lipforge_user=chosen-by-me"}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "chosen-by-me" not in cookie


def test_it_serves_this_machine_only(running: Running) -> None:
    assert running.url.startswith("http://127.0.0.1:") and not running.share_url


# --- the shelf -------------------------------------------------------------------------------------


def test_what_a_killed_run_left_goes_at_the_next_start_and_a_living_one_stays(tmp_path: Path) -> None:
    left, living = tmp_path / "run-left", Shelf(tmp_path)
    left.mkdir()
    (left / "lock").touch()
    (left / "old.mp4").touch()
    other = Shelf(tmp_path)
    assert not left.exists() and living.folder.exists()
    other.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_uploads_beyond_a_user_s_share_go_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipforge.pipeline.app.shelf.MOST_UPLOADS_BYTES", 25)
    shelf = Shelf(tmp_path)
    paths = [shelf.uploads / f"{name}.mp4" for name in "abc"]
    for path in paths:
        path.write_bytes(bytes(10))
        shelf.take("ann", [str(path)])
    assert [shelf.owns("ann", str(path)) for path in paths] == [False, True, True]
    assert [path.exists() for path in paths] == [False, True, True]
    with pytest.raises(ValueError, match="send it again"):
        shelf.put("ann", str(paths[0]), tmp_path / "job")
    shelf.close()


# --- the queue -------------------------------------------------------------------------------------


class _Bench:
    """Jobs whose work is a function, in folders of their own."""

    def __init__(self, folder: Path, work: Callable[[Job], None]) -> None:
        self.folder, self.work, self.count = folder, work, 0
        self.by_out: dict[str, Job] = {}
        self.jobs = Jobs(make=self._make)

    def _make(self, video: str, audio: str, out: str, *_: Any, limit_s: float | None) -> InferResult:
        job = self.by_out[out]
        self.work(job)
        raise InferError(f"{job.video}: done")

    def ask(self, user: str, config: InferConfig | None = None, kind: Kind = Kind.VIDEO) -> Job:
        self.count += 1
        folder = self.folder / str(self.count)
        (folder / "video").mkdir(parents=True)
        video = folder / "video" / "talk.mp4"
        video.write_bytes(bytes(10))
        job = Job(str(self.count), user, kind, folder, video, folder / "voice.wav", config or InferConfig())
        self.by_out[str(job.out)] = job
        self.jobs.submit([job])
        return job


def _until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def _work_until_stopped(job: Job) -> None:
    if job.stop.wait(10):
        raise Cancelled


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[_Bench]:
    made = _Bench(tmp_path, _work_until_stopped)
    yield made
    made.jobs.close()


def test_one_job_runs_and_the_others_know_their_place(bench: _Bench) -> None:
    first, second, third = bench.ask("ann"), bench.ask("bob"), bench.ask("ann")
    _until(lambda: first.state is State.RUNNING)
    assert (second.state, third.state) == (State.WAITING, State.WAITING)
    assert [bench.jobs.ahead_of(job) for job in (second, third)] == [1, 2]
    bench.jobs.stop([second])
    assert second.state is State.STOPPED and bench.jobs.ahead_of(third) == 1
    bench.jobs.stop([first])
    _until(lambda: third.state is State.RUNNING)
    assert first.state is State.STOPPED


def test_a_user_sees_only_jobs_of_their_own(bench: _Bench) -> None:
    mine, other = bench.ask("ann"), bench.ask("bob")
    assert bench.jobs.of("ann") == [mine]
    assert bench.jobs.find("ann", other.id) is None


def test_a_user_cannot_fill_the_queue(bench: _Bench) -> None:
    for _ in range(app_jobs.MOST_PENDING):
        bench.ask("ann")
    with pytest.raises(ValueError, match="at most 20 wait"):
        bench.ask("ann")
    bench.ask("bob")


def test_an_error_is_its_sentence_with_the_user_s_name_of_the_file(bench: _Bench) -> None:
    bench.work = lambda job: None
    job = bench.ask("ann")
    _until(lambda: job.state is State.FAILED)
    assert job.words == "talk.mp4: done"
    _until(lambda: not job.folder.exists())


def test_a_bug_is_told_to_the_operator_and_the_next_job_runs(bench: _Bench, capfd: pytest.CaptureFixture[str]) -> None:
    def break_down(job: Job) -> None:
        raise ZeroDivisionError("a bug")

    bench.work = break_down
    job = bench.ask("ann")
    _until(lambda: job.state is State.FAILED)
    assert job.words == app_jobs.BROKEN
    bench.work = lambda job: None
    following = bench.ask("ann")
    _until(lambda: following.state is State.FAILED)
    assert following.words == "talk.mp4: done" and "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_close_stops_what_runs_and_what_waits(bench: _Bench) -> None:
    jobs = [bench.ask("ann") for _ in range(3)]
    _until(lambda: jobs[0].state is State.RUNNING)
    bench.jobs.close()
    assert {job.state for job in jobs} == {State.STOPPED}


def test_old_results_go_by_count_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_jobs, "MOST_KEPT", 2)
    monkeypatch.setattr(app_jobs, "probe", lambda out: type("Info", (), {"width_px": 4, "height_px": 2}))
    made = _Bench(tmp_path, lambda job: None)
    made.jobs = Jobs(make=lambda video, audio, out, *_, limit_s: InferResult(out, 1, 1.0, 1))
    kept = [made.ask("ann") for _ in range(3)]
    _until(lambda: kept[2].state is State.DONE and len(made.jobs.of("ann")) == 2)
    assert [job.folder.exists() for job in kept] == [False, True, True]
    monkeypatch.setattr(app_jobs, "MOST_KEPT_BYTES", 15)
    made.ask("ann")
    _until(lambda: len(made.jobs.of("ann")) == 1)
    made.jobs.close()


def test_searches_for_faces_push_out_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_jobs, "probe", lambda out: type("Info", (), {"width_px": 4, "height_px": 2}))
    made = _Bench(tmp_path, lambda job: None)
    made.jobs = Jobs(
        make=lambda video, audio, out, *_, limit_s: InferResult(out, 1, 1.0, 1),
        number=lambda video, out, *_: (Path(out).with_suffix(".jpg"), ["track:1  a face"]),
    )
    result = made.ask("ann")
    searches = [made.ask("ann", kind=Kind.FACES) for _ in range(app_jobs.MOST_KEPT - 1)]
    _until(lambda: searches[-1].state is State.DONE and searches[-1].ended_s > 0)
    _until(lambda: len(made.jobs.of("ann")) == 1 + app_jobs.MOST_SEARCHES)
    assert result in made.jobs.of("ann") and result.folder.exists()
    made.jobs.close()


def test_networks_are_loaded_once_for_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lipforge.pipeline.infer import lips

    loads: list[str] = []
    weights = tmp_path / "unet.pt"
    weights.write_bytes(b"weights")

    def load(place: str, *_: Any) -> Any:
        loads.append(place)
        return type("Networks", (), {"name": place, "sha256": "", "resolution": 64, "window_frames": 16})

    monkeypatch.setattr(lips, "_load", functools.lru_cache(maxsize=1)(load))
    monkeypatch.setattr(lips, "DiffusionLips", lambda networks, sampling, stopped: networks)
    seen: list[Any] = []
    bench = _Bench(tmp_path, lambda job: seen.append(lips.open_lip_model(job.config)))
    for number, user in enumerate(("ann", "bob", "ann")):
        bench.ask(user, InferConfig(model=str(weights), sampling=SamplingConfig(seed=number, steps=5 + number)))
    _until(lambda: all(job.state is State.FAILED for job in bench.jobs.of("ann") + bench.jobs.of("bob")))
    assert len(seen) == 3 and len(loads) == 1
    bench.jobs.close()


# --- settings and pairs ----------------------------------------------------------------------------


def test_the_page_s_settings_are_the_published_ones(ann: Browser) -> None:
    page = json.dumps(ann.http.get("/config").json())
    for words in ("Denoising steps (LatentSync: 20).", "Same seed, same device: same bytes."):
        assert words in page
    config = to_config("identity", "speaker", PUBLISHED)
    assert config == InferConfig(model="identity", overwrite=True)


def test_settings_that_do_not_fit_are_named() -> None:
    for place, value, words in ((4, 2000, "guidance_band"), (3, None, "seed: enter a number"), (2, "magic", "solver")):
        with pytest.raises(ValueError, match=words):
            to_config(None, "speaker", (*PUBLISHED[:place], value, *PUBLISHED[place + 1 :]))


def test_pairs_go_by_name_or_one_for_all() -> None:
    assert pair_up(["/u/a.mp4", "/u/b.mp4"], ["/v/b.wav", "/v/a.wav"]) == [
        ("/u/a.mp4", "/v/a.wav"),
        ("/u/b.mp4", "/v/b.wav"),
    ]
    assert pair_up(["a.mp4", "b.mp4"], ["x.wav"]) == [("a.mp4", "x.wav"), ("b.mp4", "x.wav")]
    assert pair_up(["a.mp4"], ["x.wav", "y.wav"]) == [("a.mp4", "x.wav"), ("a.mp4", "y.wav")]


@pytest.mark.parametrize(
    ("videos", "sounds", "words"),
    [
        ([], ["a.wav"], "Add videos first"),
        (["a.mp4"], [], "Add sounds first"),
        (["a.mp4", "b.mp4"], ["a.wav", "c.wav"], "No partner for b.mp4, c.wav"),
        (["a.mp4", "b.mp4"], ["u/a.wav", "v/a.mp3"], "same name"),
    ],
)
def test_files_without_a_partner_are_named(videos: list[str], sounds: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pair_up(videos, sounds)


def test_each_numbered_face_can_be_chosen() -> None:
    lines = ["track:1  0.0 to 2.0 s, 105 px high, the speaker", "track:12  1.0 to 2.0 s, 90 px high", "a note"]
    assert track_choices(lines) == [
        ("Face 1 (0.0 to 2.0 s, 105 px high, the speaker)", "track:1"),
        ("Face 12 (1.0 to 2.0 s, 90 px high)", "track:12"),
    ]
