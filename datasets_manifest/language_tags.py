"""Language labels as BCP 47 tags: one spelling for each language, and which languages a range takes along."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

import langcodes
import pyarrow as pa
from langcodes.registry_parser import parse_registry

UNKNOWN = "und"
SAFE_AS_FOLDER = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
"""What every tag looks like, and every label that earlier versions took: no slash, no dot."""

_MAX_LENGTH = 64
"""Longer tags (of private use) would not fit into the names of shards."""
_LANGUAGE_SUBTAG = re.compile(r"([a-z]{2,3}|[xi])([-_]|$)|(art|cel)-", re.IGNORECASE)
_PRIVATE_REGION = re.compile("aa|q[m-z]|x[a-z]|zz")
_WORDS_FOR_UNKNOWN = ("unknown", "none", "null", "n a")
_ASKED_FOR_ALONE = {"id": "ms"}
"""The registry puts Indonesian under Malay, but nobody who asks for Malay means it."""


class LanguageError(ValueError):
    """Not a language."""


@cache
def canonical_language(label: str) -> str:
    """The canonical tag of a language: zh_CN becomes zh-CN, eng en, iw he, zh-yue yue. Space around it is ignored.

    Canonical as in the Unicode CLDR, by langcodes. Only the spelling changes: a script, a region, or a language more
    exact than its macrolanguage (cmn, Mandarin, stays cmn) is what the user knows, and stays.
    Raises LanguageError for what is no language in IANA's registry, with a suggestion where one is near.
    """
    tag = _canonical(label.strip())
    if tag is None:
        near = _suggestion(label)
        hint = f"; did you mean {near}?" if near else ""
        raise LanguageError(f"{label!r} is not a language code such as en, zh or pt-BR{hint}")
    return tag


def is_language(label: str) -> bool:
    """Whether canonical_language takes the label."""
    return _canonical(label.strip()) is not None


def stored_language(label: str | None) -> str:
    """The canonical tag of a label in a dataset, `und` without one. What is no language, in an old dataset, stays."""
    text = (label or "").strip()
    return _canonical(text) or text or UNKNOWN


def takes_along(wanted: str, tag: str) -> bool:
    """Whether the range `wanted` takes `tag`; both canonical.

    Basic filtering (RFC 4647, 3.3.1): en takes en and en-US, en-US does not take en. On the tag's extlang form
    (RFC 5646, 4.5), extended to all macrolanguages of the registry: zh also takes cmn and yue, no also nb and nn.
    """
    if tag == wanted or tag.startswith(f"{wanted}-"):
        return True
    language = tag.split("-", 1)[0]
    return _registry().wider.get(language) == wanted and _ASKED_FOR_ALONE.get(language) != wanted


def takes_any(ranges: Iterable[str], label: str | None) -> bool:
    """Whether one of the ranges (canonical) takes a label as a dataset stores it."""
    tag = stored_language(label)
    return any(takes_along(wanted, tag) for wanted in ranges)


def with_canonical_languages(rows: pa.Table) -> pa.Table:
    """Rows of a manifest with stored_language of each label; no label stays null. Keeps the type of the column."""
    index = rows.schema.get_field_index("language")
    chunks = []
    for chunk in rows.column(index).chunks:
        coded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        tags = [stored_language(label) for label in coded.dictionary.to_pylist()]
        if tags == coded.dictionary.to_pylist():
            chunks.append(chunk)
            continue
        known = list(dict.fromkeys(tags))  # each once, as DuckDB expects of a dictionary
        codes = pa.array([known.index(tag) for tag in tags], pa.int32()).take(coded.indices)
        chunks.append(pa.DictionaryArray.from_arrays(codes, pa.array(known, pa.string())).cast(chunk.type))
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.chunked_array(chunks, field.type))


@cache
def _canonical(text: str) -> str | None:
    if len(text) > _MAX_LENGTH or not _LANGUAGE_SUBTAG.match(text):
        return None  # langcodes also takes `root` and words of four letters
    try:
        plain = langcodes.Language.get(text, normalize=False)
        if plain.extlangs:
            # zh-cmn is cmn; langcodes would make it zh. It also takes any language here, as in eng-USA.
            (extlang,) = plain.extlangs
            if _registry().prefixes.get(extlang) != langcodes.standardize_tag(plain.language or UNKNOWN):
                return None
            plain = plain.update_dict({"language": extlang, "extlangs": None})
        tag = langcodes.standardize_tag(plain)
        return tag if langcodes.tag_is_valid(tag) else None
    except ValueError:
        return None


@dataclass(frozen=True)
class _Registry:
    """What langcodes knows of IANA's registry, but has no function for."""

    wider: dict[str, str]
    """The macrolanguage of a language, or what it is an extlang of."""
    prefixes: dict[str, str]
    """Extlangs, and the language that each follows."""
    names: dict[str, str]
    """English names in lower case, and their language."""


@cache
def _registry() -> _Registry:
    found = _Registry({}, {}, {})
    for entry in parse_registry():
        if entry["Type"] == "extlang":
            (found.prefixes[entry["Subtag"]],) = entry["Prefix"]
        elif entry["Type"] == "language" and "Deprecated" not in entry and ".." not in entry["Subtag"]:
            if "Macrolanguage" in entry:
                found.wider[entry["Subtag"]] = entry["Macrolanguage"]
            for name in entry["Description"]:
                found.names.setdefault(name.lower(), entry["Subtag"])
    for language, prefix in found.prefixes.items():
        found.wider.setdefault(language, prefix)
    return found


def _suggestion(label: str) -> str | None:
    """What someone may have meant: en for english, englsh or en_US.UTF-8 (en-US); ja for jp; und for unknown."""
    words = [word for word in re.split(r"[^a-z0-9]+", label.lower()) if word]
    for count in range(len(words), 0, -1):
        if found := _canonical("-".join(words[:count])) or _named(" ".join(words[:count])):
            return found
    if not words:
        return None
    if re.fullmatch("[a-z]{2}", words[0]) and not _PRIVATE_REGION.fullmatch(words[0]):
        there = langcodes.Language.make(territory=words[0].upper())
        return there.maximize().language if there.is_valid() else None
    common = [name for name, code in _registry().names.items() if len(code) == 2]
    near = get_close_matches(words[0], common, 1, 0.85) if len(words[0]) > 3 else []
    return _named(near[0]) if near else None


def _named(name: str) -> str | None:
    """The language of this English name, or the best-known one with this word in its name (Mandarin Chinese)."""
    registry = _registry()
    if name in _WORDS_FOR_UNKNOWN:
        return UNKNOWN
    if len(name) < 4:  # more likely a code than a name
        return None
    if name in registry.names:
        return _canonical(registry.names[name])
    matches = [
        (len(code), len(full), code)
        for full, code in registry.names.items()
        if (len(code) == 2 or registry.wider.get(code, "sgn") != "sgn") and name in full.partition("(")[0].split()
    ]
    return _canonical(min(matches)[2]) if matches else None
