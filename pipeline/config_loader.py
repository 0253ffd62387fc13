"""Load the settings of any program, typed and frozen, from a YAML file and `--set section.field=value`."""

import difflib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator


class Config(BaseModel):
    """Base of all settings: frozen, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = set(get_args(kind) or [kind])
        if kinds & {int, float} and bool not in kinds:
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, bool):
                    raise ValueError("expected a number")
        return value


C = TypeVar("C", bound=Config)


def parse_value(text: str, override: str) -> Any:
    """The value of a `--set`, read as YAML. Raises ValueError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: {text!r} is not valid YAML; put it in quotes") from error


def load_config(kind: type[C], path: Path | None, overrides: list[str]) -> C:
    """Read a YAML file and apply `section.field=value` overrides.

    Raises ValueError naming the field, what was given and what is expected.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"config {path}: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ValueError(f"config {path}: expected settings by name, found {type(loaded).__name__}")
        tree = {
            name: {} if value is None and _is_section(kind, name) else value for name, value in (loaded or {}).items()
        }
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"--set {override}: expected section.field=value, for example align.resolution=512")
        *sections, field = name.split(".")
        node = tree
        for section in sections:
            if node.get(section) is None:
                node[section] = {}
            node = node[section]
            if not isinstance(node, dict):
                raise ValueError(f"--set {override}: {section} is a value, not a section")
        node[field] = parse_value(value, override)
    return validated(kind, tree)


def _is_section(kind: type[Config], name: str) -> bool:
    """Whether nothing below that name means its defaults, not null."""
    return name in kind.model_fields and isinstance(kind.model_fields[name].default, Config)


def validated(kind: type[C], tree: dict[str, Any]) -> C:
    """Settings from plain values. Raises ValueError naming each wrong field, what was given and what is expected."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError("config: " + "; ".join(_words(kind, problem) for problem in error.errors())) from error


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


def _words(kind: type[Config], problem: Any) -> str:
    name, context = ".".join(map(str, problem["loc"])), problem.get("ctx", {})
    where = f"{name}: " if name else ""
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such setting{_nearest(kind, name)}"
    if problem["type"] == "missing":
        return f"{name}: not set, and it has no default"
    value = problem["input"]
    given = f" (given: {_shown(value)})"
    if problem["type"] == "value_error":  # of our own checks; those of a whole section say which values they mean
        return f"{where}{context['error']}{'' if isinstance(value, Config | dict) else given}"
    if problem["type"] in _EXPECTED:
        return f"{where}expected {_EXPECTED[problem['type']].format(**context)}{given}"
    return f"{where}{problem['msg']}{given}"


def _shown(value: Any) -> str:
    """A value as it is written in YAML, cut to a line; of a section, only that it is one."""
    if isinstance(value, Config | dict):
        return "a section"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(kind: type[Config], name: str) -> str:
    """The known setting that is most like `name`, as words: of the same name, in the same section, or in any other."""
    known = {setting: setting.rpartition(".")[2] for setting in _names(kind)}
    section, _, leaf = name.rpartition(".")
    beside = {setting: known[setting] for setting in known if setting.rpartition(".")[0] == section}
    found = [setting for setting in known if known[setting] == leaf]
    for settings in (beside, known):
        near = difflib.get_close_matches(leaf, settings.values(), n=1, cutoff=0.5)
        found += [setting for setting in settings if settings[setting] in near]
    return f"; did you mean {found[0]}?" if found else f"; known: {', '.join(beside)}"


def _names(kind: type[Config], above: str = "") -> Iterator[str]:
    """All settings and sections, as `section.field`."""
    for name, field in kind.model_fields.items():
        yield f"{above}{name}"
        for part in get_args(field.annotation) or [field.annotation]:
            if isinstance(part, type) and issubclass(part, Config):
                yield from _names(part, f"{above}{name}.")


def describe(kind: type[Config]) -> str:
    """All settings with defaults and descriptions, as YAML that `load_config` reads."""
    lines = [f"# {' '.join((kind.__doc__ or '').split())}"]
    for name, section in kind.model_fields.items():
        if not isinstance(section.default, Config):
            lines += ["", *_setting(name, section.default, section.description)]
            continue
        lines += ["", f"# {' '.join((type(section.default).__doc__ or '').split())}", f"{name}:"]
        for field_name, value in section.default.model_dump(mode="json").items():
            about = type(section.default).model_fields[field_name].description
            lines += [f"  {line}" for line in _setting(field_name, value, about)]
    return "\n".join(lines)


def _setting(name: str, value: Any, about: str | None) -> list[str]:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).replace("...", "").strip()
    return [*([f"# {' '.join(about.split())}"] if about else []), f"{name}: {text}"]


def hash_of(plain: Any) -> str:
    """Hex digest of plain JSON values, independent of key order."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
