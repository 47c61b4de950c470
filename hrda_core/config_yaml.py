"""Frozen dataclasses from and to plain types and YAML, with errors that name the field."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

_T = TypeVar("_T")


def as_dict(config: Any) -> dict[str, Any]:
    """Nested dictionaries and lists of plain types."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def dump_yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> Any:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the configuration is not valid YAML: {error}") from error
    return {} if content is None else content


def from_dict(cls: type[_T], content: Any, where: str = "") -> _T:
    """Builds a (nested) dataclass from plain types, checking names and types."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'configuration'}={content!r}: must be a mapping of fields")
    hints = typing.get_type_hints(cls)
    unknown = [str(key) for key in content if key not in hints]
    if unknown:
        raise ValueError(f"unknown field {where + unknown[0]!r}: the fields here are {', '.join(hints)}")
    return cls(**{str(key): _value(hints[key], value, f"{where}{key}") for key, value in content.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type[Any], hint), value, f"{name}.")
    if isinstance(hint, types.GenericAlias):  # tuple[str, ...] or tuple[float, ...]
        kind = typing.get_args(hint)[0]
        if isinstance(value, (list, tuple)):
            with contextlib.suppress(ValueError):
                return tuple(_value(kind, item, name) for item in value)
        raise ValueError(f"{name}={value!r}: must be a list of {'texts' if kind is str else 'numbers'}")
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 6e-5 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{name}={value!r}: must be of type {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: must be a finite number")
    return value


def merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, dict) else value
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
