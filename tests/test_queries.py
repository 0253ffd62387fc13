"""The questions of docs/queries.md are answered, and rightly, by the SQL beside them."""

import re
from pathlib import Path
from typing import Any

import pytest

from lipforge.datasets_manifest.query import query
from tests.manifests import clip, dataset, refused

PAGE = Path(__file__).parents[1] / "docs" / "queries.md"
QUESTIONS = {
    question: sql.strip()
    for question, sql in re.findall(r"^\*\*(.+?)\*\*[^\n]*\n\n```sql\n(.+?)```", PAGE.read_text(), re.M | re.S)
}
TALK = {"source_id": "a" * 64, "source_uri": "/videos/deep/talk.mp4", "accounted_s": 4.0}
SILENT = {"source_id": "b" * 64, "source_uri": "/videos/silent.mp4", "language": "en", "speaker": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    measures = {"upscale_ratio": 1.5, "speech_ratio": 0.9, "language_source": "list", "language_prob": 1.0}
    rows = [
        *(clip(n, quality=45.0 + 5 * n, speaker=f"person-{n % 2}", **measures) for n in range(5)),
        clip(5, speaker=None, av_offset_frames=-3, **measures),
        refused(20, "low_quality", quality=39.0, detail="nearest", **TALK),
        refused(21, "low_quality", quality=12.0, **TALK),
        refused(22, "low_sync_confidence", sync_confidence=2.0, stage="measure_sync", **{**TALK, "accounted_s": 1.0}),
        refused(23, "no_audio", accounted_s=9.0, detail="no track", sync_model=None, **SILENT),
        refused(24, "no_face", accounted_s=3.0, sync_model=None, **SILENT),
        refused(25, "duplicate", accounted_s=2.0, detail="of /videos/0.mp4", source_uri="/videos/copy.mp4"),
        {**refused(26, "decode_error", accounted_s=1.0, source_uri="/videos/broken.mp4"), "status": "failed"},
    ]
    return dataset(tmp_path_factory.mktemp("asked"), rows)


def answer(root: str, words: str) -> list[dict[str, Any]]:
    """Of the one question with these words."""
    (sql,) = [sql for question, sql in QUESTIONS.items() if words in question]
    return query(root, sql).to_pylist()


def test_every_block_of_sql_has_a_question() -> None:
    assert len(QUESTIONS) == PAGE.read_text().count("```sql") >= 15


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_an_answer(root: str, question: str) -> None:
    assert '"' not in QUESTIONS[question], "it goes between double quotes in a shell"
    assert query(root, QUESTIONS[question]).num_rows


def test_where_it_went(root: str) -> None:
    outcomes = {row["outcome"]: (row["minutes"], row["pieces"]) for row in answer(root, "what took the rest")}
    assert outcomes["kept"] == (0.6, 6) and outcomes["low_quality"] == (0.1, 2) and len(outcomes) == 7
    first, second, *_ = answer(root, "gave nothing")
    assert first == {"source_uri": SILENT["source_uri"], "seconds": 12.0, "mostly": "no_audio", "because": "no track"}
    assert (second["source_uri"], second["seconds"], second["mostly"]) == (TALK["source_uri"], 9.0, "low_quality")
    assert [row["outcome"] for row in answer(root, "piece by piece")].count("low_quality") == 2
    assert [row["reason"] for row in answer(root, "What failed")] == ["decode_error"]
    assert [row["detail"] for row in answer(root, "copies of others")] == ["of /videos/0.mp4"]


def test_how_near_it_was(root: str) -> None:
    assert [row["quality"] for row in answer(root, "closest to the quality")] == [39.0, 12.0]
    assert [row["sync_confidence"] for row in answer(root, "to the sync threshold")] == [2.0]
    kept = {row["least"]: row["clips"] for row in answer(root, "a quality threshold of 50, 60 or 70")}
    assert kept == {40: 6, 50: 5, 60: 3, 70: 0}  # 45, 50, 55, 60, 65 and 60


def test_who_is_in_it(root: str) -> None:
    clips = {row["who"]: row["clips"] for row in answer(root, "Hours by speaker")}
    assert clips == {"person-0": 3, "person-1": 2, "/videos/1.mp4": 1}
    (apart,) = answer(root, "sound and picture apart")
    assert (apart["frames"], apart["ms"]) == (-3, -120)
