"""The page of an evaluation: what it shows, and that nothing in names or numbers breaks it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lipforge.pipeline.evaluate.best import media_path
from lipforge.pipeline.evaluate.metrics import METRICS
from lipforge.pipeline.evaluate.page import gallery, listing
from lipforge.pipeline.evaluate.page.page import write_page
from lipforge.pipeline.evaluate.page.words import headline, number_text
from lipforge.pipeline.evaluate.result import Evaluation, Number
from tests.made_evaluation import made_evaluation, made_rows
from tests.talking_photo import make_talking_photo

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "\N{RIGHT-TO-LEFT OVERRIDE}4pm.egnp",
    "مقطع عربي",
    "not utf-8 \udcff",
    "{{ 7 * 7 }}",
    "long " + "x" * 240,
]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talking_photo(tmp_path_factory.mktemp("video") / "talk.mp4", 1.0, size_px=128)


def with_media(folder: Path, rows: list[dict[str, Any]], video: Path) -> None:
    for row in rows:
        for reference in (False, True):
            path = media_path(folder, row["file"], reference=reference)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, path)


def page_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> str:
    return write_page(folder, made_evaluation(rows, **changes), rows).read_text(encoding="utf-8")


def test_one_clip_has_no_interval_and_no_rival(tmp_path: Path, video: Path) -> None:
    rows = made_rows(1, languages=("en",))
    with_media(tmp_path, rows, video)
    page = page_of(tmp_path, rows)
    assert "1 clip was judged." in page and "<h2>The clip</h2>" in page
    assert page.count("one clip: no interval") == 4
    assert page.count("<video") == 2
    assert "By language" not in page and "Clip by clip" not in page


def test_all_parts_are_there_with_their_numbers(tmp_path: Path) -> None:
    rows = made_rows(24)
    found = made_evaluation(rows)
    page = page_of(tmp_path, rows, notes=["A note."], command="lipforge evaluate 'a & b'")
    sync = next(number for number in found.numbers if number.metric == "sync_confidence")
    assert f"{sync.value:.2f}" in page and f"{sync.low:.2f} to {sync.high:.2f}" in page
    for words in (
        "22 of 24 clips could be judged.",
        "By language",
        "By speaker",
        "Does the mouth rest in silence?",
        "<b>2</b> no face",
        "en/clip 0021",
        "2 face turned away",
        "lipforge models fetch lpips",
        "lipforge evaluate &#39;a &amp; b&#39;",
        "abababababababab",
        "<bdi>A note.</bdi>",
    ):
        assert words in page, words
    assert "http" not in page.replace("http-equiv", "")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    rows = made_rows(len(HOSTILE), languages=("en",))
    for row, name in zip(rows, HOSTILE, strict=True):
        row["file"] = row["speaker"] = row["detail"] = name
    rows[0]["status"] = rows[1]["status"] = "failed"
    page = page_of(tmp_path, rows, videos=HOSTILE[0], command=HOSTILE[1], notes=HOSTILE)
    assert "<script>window" not in page and "<img" not in page and "49" not in page.split("{{ 7 * 7 }}")[1][:9]
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page and "\\u202e4pm.egnp" in page
    assert page.count("<script") == page.count("</script>") == 2


def test_tests_without_videos_say_what_they_take(tmp_path: Path) -> None:
    rows = [{**row, "leak": None, "silent_movement": None, "silent_opening": None} for row in made_rows(5)]
    page = page_of(tmp_path, rows)
    assert "Not measured: it takes the same videos made with silence." in page
    assert "--reference FOLDER --foreign FOLDER" in page


def test_nothing_measured_is_a_page_too(tmp_path: Path) -> None:
    rows = [{**row, **dict.fromkeys(METRICS), "status": "failed", "detail": "no sound"} for row in made_rows(3)]
    page = page_of(tmp_path, rows, numbers=[], models=[])
    assert "None of 3 clips could be judged." in page and "Nothing could be measured." in page
    assert "<b>3</b> no sound" in page


def test_best_and_worst_share_the_room_and_no_clip_is_both(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in made_rows(8) if row["status"] == "measured"][:7]
    with_media(tmp_path, rows, video)
    shown = gallery.make_gallery(tmp_path, rows)
    order = sorted(rows, key=lambda row: row["sync_confidence"])
    assert [one.name for one in shown.best] == [row["file"] for row in order[:2:-1]]
    assert [one.name for one in shown.worst] == [row["file"] for row in order[:3]]
    assert all(one.video and one.reference for one in shown.best)

    monkeypatch.setattr(gallery, "MAX_MEDIA_BYTES", int(4.9 * video.stat().st_size))
    media_path(tmp_path, order[0]["file"]).write_bytes(b"damaged")
    small = gallery.make_gallery(tmp_path, rows)
    assert [bool(one.video) for one in (small.best[0], small.best[-1])] == [True, False]
    assert small.worst[0].note == "Its video cannot be read."
    assert small.best[-1].note == "Left out to keep this page small."


def test_thousands_of_clips_make_a_small_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_rows(2000, num_speakers=60)
    path = write_page(tmp_path, made_evaluation(rows), rows)
    assert path.stat().st_size < 1_500_000
    monkeypatch.setattr(listing, "MAX_LISTED_BYTES", 100_000)
    text, count = listing.listed(rows)
    assert 300 < count < 1000 and len(text) < 103_000


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (2.312, "sync_confidence", "2.31"),
        (-1.24, "sync_offset_frames", "\N{MINUS SIGN}1.2"),
        (0.94712, "ssim", "0.947"),
        (-0.0, "leak", "0.000"),
        (0.00042, "jitter", "0.0004"),
        (1234.56, "fvd", "1,234.6"),
        (None, "fid", "\N{EN DASH}"),
        (float("nan"), "ssim", "\N{EN DASH}"),
    ],
)
def test_numbers_are_written_as_people_do(value: float | None, metric: str, text: str) -> None:
    assert number_text(value, METRICS[metric]) == text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (2.3, 2.9, "The lips follow the sound"),
        (0.5, 2.1, "The lips do not follow the sound"),
        (1.5, 2.9, "is not clear"),
    ],
)
def test_the_headline_says_what_the_interval_allows(low: float, high: float, words: str) -> None:
    number = Number("sync_confidence", "all", 9, (low + high) / 2, low, high)
    found: Evaluation = made_evaluation([], numbers=[number], num_videos=9)
    assert words in headline(found, 9)[1]


@pytest.mark.parametrize(("foreign", "is_said"), [(1.0, True), (3.2, False)])
def test_the_headline_does_not_praise_a_copied_mouth(foreign: float, is_said: bool) -> None:
    numbers = [
        Number("sync_confidence", "all", 9, 3.3, 3.0, 3.6),
        Number("foreign_sync_confidence", "all", 9, foreign, foreign - 0.2, foreign + 0.2),
    ]
    sentences = headline(made_evaluation([], numbers=numbers, num_videos=9), 9)
    assert any("copied" in sentence for sentence in sentences) == is_said


CHROMIUM = shutil.which("chromium")
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
_ARGUMENTS += ["--autoplay-policy=no-user-gesture-required"]

_UNTIL = "(so => new Promise(done => { const look = () => so() ? done() : setTimeout(look, 20); look(); }))"
"""The page's policy forbids what playwright waits with."""


@pytest.fixture
def opened(tmp_path: Path, video: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page of 120 clips with hostile names among them, in a browser; and what went wrong or left the page."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    rows = made_rows(120)
    for row, name in zip(rows, HOSTILE, strict=False):
        row["file"] = name
    measured = sorted((row for row in rows if row["status"] == "measured"), key=lambda row: row["sync_confidence"])
    with_media(tmp_path, [row for row in (measured[20], measured[50]) if "/" in row["file"]], video)
    path = write_page(tmp_path, made_evaluation(rows), rows)
    trouble: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.set_default_timeout(10_000)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda asked: None if asked.url.startswith(("data:", "file:")) else trouble.append(asked.url)
        )
        page.goto(path.as_uri())
        yield page, trouble
        browser.close()


def test_the_page_in_a_browser(opened: tuple[Any, list[str]]) -> None:
    """Clips are found and sorted, two videos play in step, nothing leaves the page, and nothing is cut on a phone."""
    page, trouble = opened
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 420

    def column(number: int) -> list[str]:
        return page.locator(f"#list tbody tr td:nth-child({number})").all_text_contents()

    confidences = [float(text) for text in column(4) if text != "\N{EN DASH}"]
    assert len(confidences) == 50 and confidences == sorted(confidences)
    assert page.locator("#where").inner_text() == "1 to 50 of 120"
    page.click("#next")
    assert page.locator("#where").inner_text() == "51 to 100 of 120"
    page.select_option("#language", "hi")
    assert set(column(2)) == {"hi"} and page.locator("#where").inner_text() == "1 to 40 of 40"
    page.select_option("#metric", label="Old mouth left")
    page.fill("#from", "0.1")
    page.locator("#list [aria-sort] button").click()
    leaks = [float(text) for text in column(9)]
    assert leaks == sorted(leaks, reverse=True) and min(leaks) >= 0.1
    assert page.locator("#list [aria-sort]").get_attribute("aria-sort") == "descending"
    page.fill("#find", "no such clip")
    assert page.locator("#where").inner_text() == "No clip fits."

    page.locator(".tiles .term").first.focus()
    assert page.locator("#tip").inner_text().startswith("How surely the lips speak the sound")

    play = page.locator(".player .play").first
    play.click()
    page.evaluate(_UNTIL + "(() => document.querySelector('.judged').currentTime > 0.3)")
    first = "[...document.querySelector('.player').querySelectorAll('video')]"
    times = first + ".map(video => [video.currentTime, video.muted])"
    (judged, judged_muted), (reference, reference_muted) = page.evaluate(times)
    assert abs(judged - reference) < 0.15
    assert (judged_muted, reference_muted) == (False, True)
    page.locator(".player .play").last.click()
    assert page.evaluate("[...document.querySelectorAll('.judged')].map(video => video.paused)") == [True, False]
    page.locator(".player .seek").first.fill("500")
    page.evaluate(_UNTIL + "(() => [...document.querySelectorAll('video')].every(video => !video.seeking))")
    assert [round(time, 1) for time, _ in page.evaluate(times)] == [0.5, 0.5]
    assert trouble == []
