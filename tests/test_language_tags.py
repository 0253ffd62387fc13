"""Spellings of a language, what is refused, and which labels a language takes along."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from langcodes.registry_parser import parse_registry

from lipforge.datasets_manifest.language_tags import (
    SAFE_AS_FOLDER,
    LanguageError,
    canonical_language,
    is_language,
    stored_language,
    takes_any,
    with_canonical_languages,
)
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.sources.known import Known
from tests.made_dataset import MadeSource, add_sources, make_dataset, pack_dataset

SPELLINGS = {
    # case and underscore
    **{"en": "en", "EN-us": "en-US", "zh_CN": "zh-CN", "pt_br": "pt-BR", "ZH_hans_cn": "zh-Hans-CN", " en ": "en"},
    # codes of three letters where there is one of two: ISO 639-2 T and B, 639-3
    **{"eng": "en", "deu": "de", "ger": "de", "zho": "zh", "chi": "zh", "hin": "hi", "ukr": "uk", "eng_GB": "en-GB"},
    # retired codes, Whisper's for Javanese, and old registrations
    **{"iw": "he", "in": "id", "ji": "yi", "mo": "ro", "jw": "jv", "iw_IL": "he-IL", "i-klingon": "tlh"},
    **{"zh-min-nan": "nan", "art-lojban": "jbo", "en-GB-oed": "en-GB-oxendict", "en-UK": "en-GB", "sgn-BR": "bzs"},
    # what follows from the language is left out, all else stays
    **{"eng_Latn": "en", "zho_Hans": "zh-Hans", "zh-Hant-TW": "zh-Hant-TW", "hi-Latn": "hi-Latn", "es-419": "es-419"},
    **{"de-CH-1996": "de-CH-1996", "en-u-ca-gregory": "en-u-ca-gregory", "arb_Arab": "arb-Arab"},
    # languages of a macrolanguage: never wider than they were given
    **{"zh-yue": "yue", "zho-yue": "yue", "zh-cmn-Hans-CN": "cmn-Hans-CN", "cmn": "cmn", "ar-arb": "arb", "nb": "nb"},
    # no particular language, and private use
    **{
        "und": "und",
        "mul": "mul",
        "zxx": "zxx",
        "mis": "mis",
        "X-foo": "x-foo",
        "qaa": "qaa",
        "qaa-x-Foo": "qaa-x-foo",
    },
}


@pytest.mark.parametrize(("label", "tag"), SPELLINGS.items())
def test_every_spelling_becomes_one_tag(label: str, tag: str) -> None:
    assert canonical_language(label) == stored_language(label) == canonical_language(tag) == tag
    assert is_language(label) and SAFE_AS_FOLDER.fullmatch(tag)


REFUSED = {
    # names, and names of folders
    **{"english": "en", "ENGLISH": "en", "English (US)": "en", "chinese_traditional": "zh", "mandarin": "cmn"},
    **{"greek": "el", "englsh": "en", "language": None, "root": None, "Deutsch-Kurs": None, "unknown": "und"},
    # codes of countries, of locales, of nothing
    **{"jp": "ja", "cn": "zh", "cz": "cs", "ua": "uk", "gr": "el", "us": "en", "xx": None, "xxx": None},
    **{"en_US.UTF-8": "en-US", "de_DE@euro": "de-DE", "C": None, "POSIX": None},
    # wrong parts
    **{
        "en-USAA": "en",
        "eng-USA": "en",
        "zh-CHS": "zh",
        "en-Latx": "en",
        "en-US-US": "en-US",
        "en-": "en",
        "-en": "en",
    },
    # not even text of a tag
    **{
        "": None,
        " ": None,
        "123": None,
        "a": None,
        "..": None,
        "../x": None,
        "en/..": "en",
        "e\0n": None,
        "中文": None,
    },
    **{"\uff45\uff4e": None, "x-" + "-".join(["abcdefgh"] * 8): "x-" + "-".join(["abcdefgh"] * 7)},
}


@pytest.mark.parametrize(("label", "near"), REFUSED.items())
def test_what_is_no_language_is_refused_with_what_is_near(label: str, near: str | None) -> None:
    with pytest.raises(LanguageError, match="is not a language code such as en, zh or pt-BR") as caught:
        canonical_language(label)
    assert str(caught.value).partition("; did you mean ")[2] == (f"{near}?" if near else "")
    assert not is_language(label)


def test_every_language_of_the_registry_is_taken_and_its_tag_is_stable() -> None:
    codes = [
        entry["Subtag"] for entry in parse_registry() if entry["Type"] == "language" and ".." not in entry["Subtag"]
    ]
    assert len(codes) > 8000
    tags = {code: canonical_language(code) for code in codes}
    assert [tag for tag in tags.values() if canonical_language(tag) != tag or not SAFE_AS_FOLDER.fullmatch(tag)] == []


@pytest.mark.parametrize(
    ("wanted", "labels", "others"),
    [
        ("en", ["en", "EN-us", "eng", "en_GB", "en-x-foo"], ["enm", "de", "e", None]),
        ("en-US", ["EN-us", "en-US-x-foo"], ["en", "en-GB"]),
        ("zh", ["zh_CN", "zho", "cmn", "cmn-Hans-CN", "yue", "zh-yue"], ["za"]),
        ("cmn", ["zh-cmn", "cmn-TW"], ["zh", "yue"]),
        ("no", ["nb", "nn-NO", "nob"], ["da"]),
        ("ar", ["arb_Arab", "arz", "ar-EG"], ["fa"]),
        ("fa", ["pes", "prs", "fa-AF"], ["ps"]),
        ("ms", ["zsm", "msa"], ["id", "in"]),
        ("he", ["iw", "heb", "iw-IL"], ["yi"]),
        ("sgn", ["ase", "sgn-ase"], ["en"]),
        ("und", ["und", "", " ", None, "und-US"], ["mul", "xx"]),
    ],
)
def test_a_language_takes_along_what_is_within_it(wanted: str, labels: list[str], others: list[str]) -> None:
    assert [label for label in [*labels, *others] if takes_any([wanted], label)] == labels
    assert takes_any(["de", wanted], labels[0]) and not takes_any([], labels[0])


def test_labels_of_old_datasets_that_are_no_language_stay() -> None:
    assert [stored_language(label) for label in ("xx", "en-USAA", None, "", "eng")] == [
        "xx",
        "en-USAA",
        "und",
        "und",
        "en",
    ]


@pytest.mark.parametrize("type_", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_table_gets_canonical_labels_and_keeps_its_type(type_: pa.DataType) -> None:
    labels = [["eng", None, "en", "xx"], ["zh", "zh"], []]
    rows = pa.table({"n": range(6), "language": pa.chunked_array([pa.array(part, type_) for part in labels], type_)})
    got = with_canonical_languages(rows)
    assert got.schema == rows.schema and got["language"].to_pylist() == ["en", None, "en", "xx", "zh", "zh"]
    assert with_canonical_languages(got) == got


# --- datasets


def test_labels_are_canonical_in_rows_and_folders(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("new", language="EN_us")])
    add_sources(store, [MadeSource("late", language="eng"), MadeSource("odd", language="xx")])
    pack_dataset(store)
    assert {name.rpartition("-")[0] for name in store.list("shards")} == {
        "shards/en-US/en-US",
        "shards/en/en",
        "shards/xx/xx",
    }
    languages = {Path(row["source_uri"]).stem: row["language"] for row in read_manifest(store.root).to_pylist()}
    assert languages == {"new": "en-US", "late": "en", "odd": "xx"}


def test_another_spelling_is_no_other_label(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk", language="eng"), MadeSource("mute")])
    sources = [MadeSource("talk", language="eng").unit.video.source, MadeSource("mute").unit.video.source]
    claims = Segments(store).claims()
    for language, others in (("en", 0), ("en-US", 1)):
        given = [replace(sources[0], language=language), sources[1]]
        assert Known(SourceLog(store), given).num_relabelled(claims) == others
