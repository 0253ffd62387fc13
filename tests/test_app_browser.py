"""The app in a browser: from upload to result, cancel, a bad file, two users."""

import shutil
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from lipforge.pipeline.app.serve import Running
from tests.app_server import serving
from tests.talking_photo import babble, make_talking_photo

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_talking_photo(folder / "talk.mp4", 1.0, size_px=256)
    shutil.copy(folder / "talk.mp4", folder / "slow.mp4")
    (folder / "text.mp4").write_text("These are words. " * 100)
    with wave.open(str(folder / "voice.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes((babble(1.0, 3) * 32767).astype(np.int16).tobytes())
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


def _open(chromium: Browser, running: Running) -> tuple[BrowserContext, Page, list[str]]:
    """A user with a page; and what it asks of other machines."""
    user = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = user.new_page()
    page.set_default_timeout(WAIT_MS)
    away: list[str] = []
    own = (running.url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else away.append(request.url))
    page.goto(running.url)
    page.wait_for_selector("#make")
    return user, page, away


def _send(page: Page, video: Path, audio: Path) -> None:
    page.set_input_files("#video input[type=file]", video)
    page.set_input_files("#audio input[type=file]", audio)
    page.wait_for_selector("#about p, #about .lf-job")
    page.wait_for_selector("#audio [data-testid=waveform-controls], #audio #waveform", state="attached")


def _seen(page: Page, selector: str, words: str) -> None:
    expect(page.locator(selector)).to_contain_text(words, timeout=WAIT_MS)


def test_from_upload_to_the_result_beside_the_original(chromium: Browser, running: Running, files: Path) -> None:
    user, page, away = _open(chromium, running)
    _send(page, files / "talk.mp4", files / "voice.wav")
    _seen(page, "#about", "256 by 256, 25 frames/s, 1.0 s")
    page.click("#find")
    page.wait_for_selector("#picture img")
    assert page.locator("#picture img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.get_by_label("Face 1").check()
    page.click("#make")
    page.wait_for_selector("#result iframe")
    _seen(page, "#result", "25 frames, 100% with a new mouth")
    _seen(page, "#history", "talk.mp4 + voice.wav")

    frame: Any = page.frame_locator("#result iframe")
    frame.locator("#play").click()
    expect(frame.locator("#time")).to_have_text("1.0 / 1.0 s", timeout=WAIT_MS)
    result, original = (
        frame.locator(name).evaluate("v => [v.videoWidth, v.error, v.currentTime]") for name in ("#result", "#original")
    )
    assert result[:2] == original[:2] == [256, None]
    assert abs(result[2] - original[2]) < 0.1
    where_px = frame.locator("#stage").bounding_box()["width"] * 0.5 + 40
    frame.locator("#stage").click(position={"x": where_px, "y": 50})
    assert abs(float(frame.locator("#line").evaluate("line => parseFloat(line.style.left)")) - where_px) < 2
    with page.expect_download() as download:
        page.click("#result .lf-button")
    assert download.value.suggested_filename == "talk-new.mp4"

    page.set_viewport_size({"width": 420, "height": 900})
    page.click("#preview")
    _seen(page, "#result h2", "Preview of talk.mp4")
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    page.click("#history li:last-child button")
    expect(page.locator("#result h2")).to_have_text("talk.mp4 + voice.wav", timeout=WAIT_MS)
    assert away == []
    user.close()


def test_a_bad_file_is_told_in_a_sentence_and_others_are_made(chromium: Browser, running: Running, files: Path) -> None:
    user, page, _ = _open(chromium, running)
    page.click("#make")
    _seen(page, "#notice", "Add a video first.")
    page.set_input_files("#video input[type=file]", files / "text.mp4")
    page.wait_for_selector("#about .lf-failed")
    sentence = page.locator("#about .lf-words").inner_text()
    assert sentence.startswith("text.mp4: not a media file")

    page.get_by_role("tab", name="Several").click()
    page.set_input_files("#videos input[type=file]", [files / "text.mp4", files / "talk.mp4"])
    page.set_input_files("#sounds input[type=file]", files / "voice.wav")
    expect(page.locator("#videos .file-preview tr.file")).to_have_count(2, timeout=WAIT_MS)
    expect(page.locator("#sounds .file-preview tr.file")).to_have_count(1, timeout=WAIT_MS)
    page.click("#make-all")
    page.wait_for_selector("#result iframe")
    _seen(page, "#history", "talk.mp4 + voice.wav")
    told = page.locator("#status .lf-failed").inner_text().splitlines()
    assert [told[0], told[-1]] == ["text.mp4 + voice.wav", sentence]
    user.close()


def test_two_users_wait_for_each_other_cancel_and_see_nothing_of_each_other(
    chromium: Browser, running: Running, files: Path
) -> None:
    ann, anns, _ = _open(chromium, running)
    bob, bobs, _ = _open(chromium, running)
    _send(anns, files / "slow.mp4", files / "voice.wav")
    _send(bobs, files / "talk.mp4", files / "voice.wav")
    anns.click("#make")
    _seen(anns, "#status", "Step 2 of 3: draw, about 42.0 s left")
    bobs.click("#make")
    _seen(bobs, "#status", "Waiting: 1 job before it")
    assert "slow" not in bobs.inner_text("body")

    asked_s = time.monotonic()
    anns.click("#status .lf-stop")
    _seen(anns, "#status", "Stopped.")
    assert anns.locator("#status .lf-stop").count() == 0
    bobs.wait_for_selector("#result iframe")
    assert time.monotonic() - asked_s < WAIT_MS / 1000
    anns.reload()
    anns.wait_for_selector("#history p")
    assert "talk.mp4" not in anns.inner_text("body")

    made = bobs.locator("#result .lf-button").get_attribute("href") or ""
    assert bob.request.get(running.url + made.lstrip("/")).status == 200
    for what in ("result", "original", "report", "compare"):
        path = made.split("?")[0].rsplit("/", 1)[0].lstrip("/")
        assert ann.request.get(f"{running.url}{path}/{what}").status == 404
    ann.close()
    bob.close()
