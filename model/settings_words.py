"""What is wrong with settings, in plain words: which, what was given, what fits, what was perhaps meant."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def wrong_settings(kind: type[BaseModel], error: ValidationError) -> str:
    """A sentence for each wrong setting of `kind`, joined by semicolons."""
    return "; ".join(_words(kind, problem) for problem in error.errors())


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "too_short": "a list of {min_length} or more",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "multiple_of": "a multiple of {multiple_of:g}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "model_type": "settings by name",
}
"""What is expected, by pydantic's name of the error."""


_MOST_NAMED = 8
"""Settings in a list of those that are known."""


def _words(kind: type[BaseModel], problem: Any) -> str:
    name, context = ".".join(map(str, problem["loc"])), problem.get("ctx", {})
    where = f"{name}: " if name else ""
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such setting{_nearest(kind, name)}"
    if problem["type"] == "missing":
        return f"{name}: not set, and it has no default"
    value = problem["input"]
    given = f" (given: {_shown(value)})"
    if problem["type"] == "value_error":  # of our own checks; those of a whole section say which values they mean
        return f"{where}{context['error']}{'' if isinstance(value, BaseModel | dict) else given}"
    if problem["type"] in ("literal_error", "enum"):
        context = {"expected": context["expected"].replace("True", "true").replace("False", "false")}
    if problem["type"] in _EXPECTED:
        return f"{where}expected {_EXPECTED[problem['type']].format(**context)}{given}"
    return f"{where}{problem['msg']}{given}"


def _shown(value: Any) -> str:
    """A value as it is written in YAML, cut to a line; of a section, only that it is one."""
    if isinstance(value, BaseModel | dict):
        return "a section"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(kind: type[BaseModel], name: str) -> str:
    """The known setting that is most like `name`, as words: of the same name, in the same section, or in any other."""
    known = {setting: setting.rpartition(".")[2] for setting in _names(kind)}
    section, _, leaf = name.rpartition(".")
    beside = {setting: known[setting] for setting in known if setting.rpartition(".")[0] == section}
    found = [setting for setting in known if known[setting] == leaf]
    for settings in (beside, known):
        near = difflib.get_close_matches(leaf, settings.values(), n=1, cutoff=0.5)
        found += [setting for setting in settings if settings[setting] in near]
    if found:
        return f"; did you mean {found[0]}?"
    more = f" and {len(beside) - _MOST_NAMED} more" if len(beside) > _MOST_NAMED else ""
    return f"; known: {', '.join(list(beside)[:_MOST_NAMED])}{more}"


def _names(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """All settings and sections, as `section.field`."""
    for name, field in kind.model_fields.items():
        yield f"{above}{name}"
        for part in get_args(field.annotation) or [field.annotation]:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _names(part, f"{above}{name}.")
