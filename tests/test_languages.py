"""Hours, people and yields by language, and a warning where one threshold for all is unfair."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.cli import app
from lipforge.datasets_manifest.languages import LANGUAGE_COLUMNS, languages
from tests.manifests import clip, dataset, refused


def by_name(*roots: str) -> dict[str, dict]:
    table, _ = languages(list(roots))
    assert table.schema.equals(LANGUAGE_COLUMNS)
    return {row["language"]: row for row in table.to_pylist()}


def test_each_language_adds_up(tmp_path: Path) -> None:
    rows = [clip(n, language="hi", sync_confidence=float(n), speaker=f"p{n % 3}") for n in range(9)]
    rows += [
        refused(n, "low_sync_confidence", language="hi", sync_confidence=-1.0, quality=None) for n in range(10, 13)
    ]
    rows += [refused(n, "no_face", language="hi", sync_confidence=None, quality=None) for n in range(20, 25)]
    rows += [clip(30, language="zh", duration_s=7.2, quality=float("nan"), speaker=None)]
    found = by_name(dataset(tmp_path, rows))
    assert list(found) == ["hi", "zh"]
    lost = found["hi"].pop("lost")
    assert [one["reason"] for one in lost] == ["no_face", "low_sync_confidence"] and found["zh"]["lost"] == []
    assert [3600 * one["hours"] for one in lost] == pytest.approx([30.0, 18.0])
    assert found["hi"] == pytest.approx(
        {
            "language": "hi",
            "hours": 54 / 3600,
            "clips": 9,
            "speakers": 3,
            "sync_confidence": 2.5,  # of -1, -1, -1, 0, 1 ... 8
            "quality": 60.0,
            "measured_hours": 72 / 3600,
            "yield": 9 / 12,
            "sync_loss": 3 / 12,
            "hours_in": 17 * 6 / 3600,
        }
    )
    assert (
        found["zh"]["hours"] == pytest.approx(0.002) and found["zh"]["quality"] is None and found["zh"]["speakers"] == 1
    )


def test_a_language_of_which_nothing_was_measured_is_there_with_zeros(tmp_path: Path) -> None:
    nothing = {"sync_confidence": None, "sync_model": None, "quality": None, "quality_model": None}
    rows = [clip(0), *(refused(n, "no_face", language="ar", **nothing) for n in range(1, 4))]
    found = by_name(dataset(tmp_path, rows))
    assert found["ar"]["clips"] == found["ar"]["hours"] == found["ar"]["measured_hours"] == 0
    assert found["ar"]["yield"] is None and found["ar"]["sync_confidence"] is None


def test_unknown_languages_are_und_and_case_makes_no_difference(tmp_path: Path) -> None:
    tags = [None, "", "und", "pt-BR", "pt_br", "PT-br", "pt"]
    found = by_name(dataset(tmp_path, [clip(n, language=tag) for n, tag in enumerate(tags)]))
    assert {name: row["clips"] for name, row in found.items()} == {"und": 3, "pt-BR": 3, "pt": 1}


def test_all_spellings_of_a_language_are_one_row(tmp_path: Path) -> None:
    tags = ["en", "eng", "EN", "EN-us", "en_US", "iw", "he", "xx"]
    one = dataset(tmp_path / "one", [clip(n, language=tag, speaker="anna") for n, tag in enumerate(tags)])
    two = dataset(tmp_path / "two", [clip(n, language="heb", speaker="ben") for n in range(10, 12)])
    table, _ = languages([one, two])
    assert {row["language"]: (row["clips"], row["speakers"]) for row in table.to_pylist()} == {
        "en": (3, 1),
        "en-US": (2, 1),
        "he": (4, 2),
        "xx": (1, 1),
    }


def test_what_was_kept_without_a_measure_has_no_yield(tmp_path: Path) -> None:
    found = by_name(dataset(tmp_path, [clip(1, sync_confidence=None), clip(2, sync_confidence=float("nan"))]))
    assert found["hi"]["yield"] is None and found["hi"]["clips"] == 2 and found["hi"]["measured_hours"] == 0


def test_a_clip_of_two_datasets_counts_once_and_as_kept(tmp_path: Path) -> None:
    a = dataset(
        tmp_path / "a", [refused(1, "low_sync_confidence"), clip(2), refused(3, "no_face", sync_confidence=None)]
    )
    b = dataset(tmp_path / "b", [clip(1), clip(2), clip(4)])
    for roots in ((a, b), (b, a), (a, b, f"{a}/")):
        assert by_name(*roots)["hi"]["clips"] == 3 and by_name(*roots)["hi"]["yield"] == 1


def losses(language: str, kept: int, low_sync: int, low_quality: int) -> list[dict]:
    rows = [clip(0, language=language)] * kept
    rows += [refused(0, "low_sync_confidence", language=language)] * low_sync
    rows += [refused(0, "low_quality", language=language)] * low_quality
    return rows


def test_warns_of_a_language_that_the_sync_threshold_alone_halves(tmp_path: Path) -> None:
    rows = (
        losses("en", 18, 1, 1)
        + losses("es", 17, 2, 1)
        + losses("zh", 18, 1, 1)
        + losses("fr", 18, 1, 1)
        + losses("de", 18, 1, 1)
    )
    rows += losses("am", 8, 11, 1)  # 55 % lost: 50 points more than usual; the usual yield is 90 %
    rows += losses("ka", 10, 9, 1)  # 45 %: 40 points more
    rows += losses("ta", 4, 1, 15)  # lost for another reason
    _, warnings = languages([dataset(tmp_path, [dict(row, key=str(n)) for n, row in enumerate(rows)])])
    assert [warning.split(":")[0] for warning in warnings] == ["am"]
    assert "refuses 55%" in warnings[0] and "40% are kept" in warnings[0]


def test_warns_of_a_language_of_which_nothing_is_kept(tmp_path: Path) -> None:
    rows = losses("en", 9, 1, 0) + losses("de", 8, 2, 0) + losses("am", 0, 9, 1) + losses("zu", 0, 1, 2)
    unmeasured = {"language": "ar", "sync_confidence": None, "quality": None}
    rows += [
        refused(0, reason, **unmeasured) for reason in ("no_face", "no_face", "no_audio", "too_short", "face_lost")
    ]
    root = dataset(tmp_path, [dict(row, key=str(n)) for n, row in enumerate(rows)])
    found = by_name(root)
    assert (found["am"]["yield"], found["am"]["sync_loss"], found["ar"]["yield"]) == (0.0, 0.9, None)
    said = {warning.split(":")[0]: warning for warning in languages([root])[1]}
    assert set(said) == {"am", "zu", "ar"}
    assert "am: nothing is kept; lost 60.0 s of 60.0 s: low_sync_confidence 54.0 s (90.0 %), low_quality" in said["am"]
    assert "The scorer may not know" in said["am"] and "The scorer may not know" not in said["zu"] + said["ar"]
    assert "no_face 12.0 s (40.0 %), face_lost 6.0 s (20.0 %), no_audio" in said["ar"]
    assert "1 other reason 6.0 s (20.0 %). `lipforge report`" in said["ar"]


def test_a_single_language_of_which_nothing_is_kept(tmp_path: Path) -> None:
    root = dataset(tmp_path, [refused(n, "low_quality", language=None) for n in range(3)])
    (warning,) = languages([root])[1]
    assert warning.startswith("und: nothing is kept; lost 18.0 s of 18.0 s: low_quality 18.0 s (100.0 %).")
    # Of a second of which two faces are seen, and one is kept, nothing is lost.
    rows = [clip(1), refused(2, "low_sync_confidence", accounted_s=0.0), refused(3, "no_face", accounted_s=None)]
    assert by_name(dataset(tmp_path / "faces", rows))["hi"]["lost"] == []


def test_medians_are_of_one_model(tmp_path: Path) -> None:
    rows = [clip(n, sync_model="a", sync_confidence=5.0) for n in range(3)] + [
        clip(9, sync_model="b", sync_confidence=0.1)
    ]
    root = dataset(tmp_path, rows)
    assert by_name(root)["hi"]["sync_confidence"] == 5.0
    assert any("sync_model differs between clips (a, b)" in note for note in languages([root])[1])


def test_command_prints_the_table(tmp_path: Path) -> None:
    rows = losses("en", 9, 1, 0) + losses("fr", 9, 1, 0) + losses("a\x1b[2Jm", 1, 9, 0)
    root = dataset(tmp_path, [dict(row, key=str(n)) for n, row in enumerate(rows)])
    result = CliRunner().invoke(app, ["languages", root])
    text = re.sub(r"[ ]+", " ", result.output)
    assert result.exit_code == 0
    assert "\nen 54.0 s 9 1 5.00 60.0 60.0 s 90%" in text
    assert "\nen lost 6.0 s of 60.0 s: low_sync_confidence 6.0 s (10.0 %)\n" in text
    assert r"note: a\x1b[2Jm: the sync threshold refuses 90%" in text and "\x1b[2J" not in text


def test_command_without_clips_or_dataset(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["languages", dataset(tmp_path / "empty", [])])
    assert result.exit_code == 0 and "no clips yet" in result.output
    result = CliRunner().invoke(app, ["languages", str(tmp_path / "nowhere")])
    assert result.exit_code == 1 and "no manifest in" in result.output
