"""The report in a browser: faces, filters, order, players, geometry; at the width of a desk and of a phone."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, sync_playwright

from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.report import media
from lipforge.datasets_manifest.report.page import write_report
from lipforge.datasets_manifest.schema import Reason, Status
from tests.reported import CLIP_S, HOSTILE, MEASURED, make_reported, make_row

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT_MS = 20_000
IN_SIGHT = "e => { const b = e.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight; }"
CUT_OFF = """
() => [...document.querySelectorAll("svg.flow text, svg.histogram text")].filter(text => {
  const label = text.getBoundingClientRect(), box = text.ownerSVGElement.getBoundingClientRect();
  return label.width && (label.left < box.left - 1 || label.right > box.right + 1);
}).map(text => text.textContent)
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


def opened(chromium: Browser, path: str, width: int = 1400) -> tuple[Page, list[str]]:
    """The page, and what went wrong in it or was asked of others: lists that grow."""
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT_MS)
    told: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text))
    own = ("file:", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else told.append(request.url))
    page.goto(Path(path).as_uri())
    return page, told


def wait_for(page: Page, expression: str) -> None:
    """Until it is true. (Playwright's own wait_for_function is forbidden by the page's policy: it calls eval.)"""
    give_up = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < give_up, expression
        page.wait_for_timeout(30)


TINY = """[...document.querySelectorAll("svg text")].filter(text => text.getClientRects().length)
    .map(text => [text.textContent, parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a])
    .filter(([text, size_px]) => size_px < 9)"""
"""Words of charts that are drawn too small to be read."""


def keys(page: Page) -> list[int]:
    return [int(key, 16) for key in page.locator("#cards .key").all_inner_texts()]


def made_report(root: Path, max_inline_bytes: int) -> str:
    make_reported(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "MAX_INLINE_BYTES", max_inline_bytes)
        return write_report(str(root))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With its media beside it."""
    return made_report(tmp_path_factory.mktemp("data set #1"), 1)


@pytest.mark.parametrize("width", [1400, 420])
def test_faces_come_first_and_nothing_is_cut_off(chromium: Browser, report: str, width: int) -> None:
    page, told = opened(chromium, report, width)
    faces = page.locator(".faces img")
    assert faces.count() == 4
    assert faces.last.evaluate(IN_SIGHT)
    wait_for(page, "[...document.querySelectorAll('img')].every(image => image.naturalWidth)")
    assert page.locator("svg.flow:visible").count() == 1
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(TINY) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert told == []
    page.close()


@pytest.mark.parametrize("max_inline_bytes", [1, 10**9])
def test_a_face_becomes_a_player_with_its_controls_below(
    chromium: Browser, tmp_path: Path, max_inline_bytes: int
) -> None:
    page, told = opened(chromium, made_report(tmp_path, max_inline_bytes))
    assert page.locator("video").count() == 0
    page.locator(".faces button").nth(2).click()
    wait_for(page, "document.querySelector('video')?.currentTime > 0.1")
    video = page.locator("video")
    duration, wide, has_controls = video.evaluate("v => [v.duration, v.videoWidth, v.controls]")
    assert duration == pytest.approx(CLIP_S, abs=0.05) and wide == 64 and not has_controls
    assert video.evaluate(
        "v => v.getBoundingClientRect().bottom <= "
        "v.closest('.player').querySelector('.play').getBoundingClientRect().top + 1"
    )
    page.locator("#cards .play").nth(2).click()
    assert video.evaluate("v => v.paused")
    assert told == []
    page.close()


def test_geometry_is_drawn_over_the_pictures_that_have_it(chromium: Browser, report: str) -> None:
    page, told = opened(chromium, report)
    assert page.locator("#cards canvas:visible").count() == 0
    page.check("#geometry")
    wait_for(page, "document.querySelectorAll('#cards canvas:not([hidden])').length === 3")
    mouth = "c => { const s = c.width; return [...c.getContext('2d').getImageData(s * .45, s * .57, 1, 1).data]; }"
    red, green, _, opacity = page.locator("#cards canvas").first.evaluate(mouth)
    assert opacity > 50 and red > 200 and green < 120  # the mouth of the middle of the clip: y = 58 .. 68 of the frame
    page.uncheck("#geometry")
    wait_for(page, "document.querySelectorAll('#cards canvas:not([hidden])').length === 0")
    assert told == []
    page.close()


def test_hostile_names_are_text(chromium: Browser, report: str) -> None:
    page, told = opened(chromium, report)
    page.click("#reset")
    names = page.locator("#cards h4").evaluate_all("all => all.map(one => one.title)")
    assert HOSTILE.replace("\n", "\\n").replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e") in names
    assert page.locator("#cards").inner_text().count("<img src=x onerror=alert(2)>") == 1
    assert told == []
    page.close()


def test_of_many_clips_all_are_reached_filtered_and_sorted(chromium: Browser, tmp_path: Path) -> None:
    rows = []
    for n in range(300):
        labels = {"language": ("en", "hi")[n % 2], "speaker": f"s{n % 5}", "source_uri": f"/v/{n % 7}.mp4"}
        kept = {"status": Status.KEPT, "stage": "commit"}
        lost = {"status": Status.REJECTED, "stage": "measure_sync", "reason": Reason.LOW_SYNC_CONFIDENCE}
        outcome = kept if n % 3 else lost
        measured = {**MEASURED, "sync_confidence": None if n == 1 else n / 10}
        rows.append(make_row(n, **{**measured, **labels, **outcome, "source_id": f"{n % 7:064x}", "track_index": 0}))
    write_manifest(str(tmp_path), rows)
    page, told = opened(chromium, write_report(str(tmp_path)))
    assert page.inner_text("#where") == "1 to 24 of 200 clips"
    seen = set[int]()
    while True:
        seen |= set(keys(page))
        if page.locator(".next").first.is_disabled():
            break
        page.evaluate("document.querySelector('.next').click()")
    assert seen == {n for n in range(300) if n % 3}

    page.click("#reset")
    assert page.inner_text("#where") == "1 to 24 of 300 clips"
    page.select_option("#sort", label="Sync")
    assert keys(page)[:3] == [0, 2, 3]
    page.click("#direction")
    assert keys(page)[:3] == [299, 298, 297]
    page.select_option("#measure", label="Sync")
    page.fill("#from", "15")
    page.fill("#to", "20.2")
    assert keys(page) == list(range(202, 178, -1)) and page.inner_text("#where") == "1 to 24 of 53 clips"
    page.select_option("#speaker", label="s2 (60)")
    assert keys(page) == [n for n in range(202, 149, -1) if n % 5 == 2]
    page.select_option("#language", label="hi (150)")
    assert keys(page) == [n for n in range(202, 149, -1) if n % 10 == 7]
    page.select_option("#reason", label="low_sync_confidence (100)")
    assert keys(page) == [n for n in range(202, 149, -1) if n % 10 == 7 and n % 3 == 0]
    page.fill("#find", f"{177:032x}")
    assert keys(page) == [177]
    page.fill("#find", "nowhere")
    assert page.inner_text("#where") == "No clip fits."
    page.click("#reset")
    page.check("#pictured")  # there is no media
    assert page.inner_text("#where") == "No clip fits."
    page.click("a[data-reason]")
    assert page.inner_text("#where") == "1 to 24 of 100 clips"
    assert told == []
    page.close()
