"""Load the settings of any program, typed and frozen, from a YAML file and `--set section.field=value`."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from lipforge.model.settings_words import wrong_settings


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
        raise ValueError(f"config: {wrong_settings(kind, error)}") from error


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
