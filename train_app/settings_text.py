"""The YAML of the hyperparameters as text that the form writes into, comments kept."""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml

from hrda_core import preset
from train_app.settings import Written, read_yaml

OFF = "# "  # before a line that shows a preset's value
FIELD = re.compile(r"(?P<off># )?(?P<indent> *)(?P<name>\w+):(?P<value>[^#\n]*)(?P<comment>#.*)?")


def preset_text(template: str, name: str) -> str:
    """The commented file of settings, with the numbers of a preset and nothing overridden.

    Args:
        template: hyperparameters.yaml.
    """
    values = preset(name).as_dict()
    lines, section = [], ""
    for line in template.splitlines():
        found = FIELD.fullmatch(line)
        if found is not None and found["name"] == "preset" and not found["off"]:
            line = f"preset: {name}"
        elif found is not None and found["off"] and _is_field(values, section if found["indent"] else "", found["name"]):
            if not found["indent"] and isinstance(values[found["name"]], dict):
                section = found["name"]
            else:
                value = values[section][found["name"]] if found["indent"] else values[found["name"]]
                line = OFF + _line(found, value)
        lines.append(line.replace("those of the preset standard", f"those of the preset {name}"))
    return "\n".join(lines) + "\n"


def with_field(text: str, path: str, value: Any) -> str:
    """The text with one setting changed: its line where there is one, off where the value is the preset's.

    Text that is laid out otherwise (`optimisation: {iterations: 5}`) is written anew, without its comments.

    Raises:
        UserError: the text cannot be read.
    """
    written = read_yaml(text)
    section, _, name = path.rpartition(".")
    wanted = _changed(written, section, name, value)
    is_preset = _lookup(preset(written.preset).as_dict(), section, name) == value
    if not section or section not in written.changes or _block(text.splitlines(), section)[0] is not None:
        edited = _edited(text.splitlines(), section, name, value, off=is_preset)
        content = _content(edited)
        if content is not None and _same(content, wanted):
            return edited
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _edited(lines: list[str], section: str, name: str, value: Any, off: bool) -> str:
    start, end = _block(lines, section)
    if start is None:
        lines.append(f"{section}:")
        start = end = len(lines)
    indent = "  " if section else ""
    for i in range(start, end):
        found = FIELD.fullmatch(lines[i])
        if found is not None and found["name"] == name and found["indent"] == indent:
            lines[i] = (OFF if off else "") + _line(found, value)
            break
    else:
        if not off:
            lines.insert(start, f"{indent}{name}: {_plain(value)}")
            end += 1
    if section:
        used = any((found := FIELD.fullmatch(line)) is not None and not found["off"] for line in lines[start:end])
        lines[start - 1] = f"{'' if used else OFF}{section}:"
    return "\n".join(lines) + "\n"


def _block(lines: list[str], section: str) -> tuple[int | None, int]:
    """The lines of a section, without its header; of the top level all but the preset's."""
    start: int | None = None if section else 0
    for i, line in enumerate(lines):
        found = FIELD.fullmatch(line)
        if found is None or found["indent"]:
            continue
        if section and start is not None:
            return start, i
        if found["name"] == section and not found["value"].strip():
            start = i + 1
        if not section and found["name"] == "preset":
            start = i + 1
    return start, len(lines)


def _line(found: re.Match[str], value: Any) -> str:
    """The field with another value; its comment stays in its column."""
    start = f"{found['indent']}{found['name']}: {_plain(value)}"
    if not found["comment"]:
        return start
    column = max(found.start("comment") - len(found["off"] or ""), len(start) + 2)
    return f"{start:<{column}}{found['comment']}"


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _changed(written: Written, section: str, name: str, value: Any) -> dict[str, Any]:
    """The whole content with the change in it."""
    content: dict[str, Any] = {"preset": written.preset, **copy.deepcopy(written.changes)}
    part = content
    if section:
        inner = content.get(section)
        part = content[section] = inner if isinstance(inner, dict) else {}
    part[name] = value
    return content


def _same(content: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether both say the same, an absent field saying what the preset says."""
    one, other = (Written(c.get("preset", "standard"), {k: v for k, v in c.items() if k != "preset"}) for c in (content, wanted))
    return one.preset == other.preset and _over(one) == _over(other)


def _over(written: Written) -> dict[str, Any]:
    """All fields by path. Not by `Written.config`, since the values need not be valid."""
    values = {f"{s}.{n}": v for s, part in preset(written.preset).as_dict().items() for n, v in _items(part)}
    return values | {f"{s}.{n}": v for s, part in written.changes.items() for n, v in _items(part)}


def _items(part: Any) -> list[tuple[str, Any]]:
    return list(part.items()) if isinstance(part, dict) else [("", part)]


def _content(text: str) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return content if isinstance(content, dict) else None


def _lookup(values: dict[str, Any], section: str, name: str) -> Any:
    part = values.get(section) if section else values
    return part.get(name) if isinstance(part, dict) else None


def _is_field(values: dict[str, Any], section: str, name: str) -> bool:
    return name in (values.get(section, {}) if section else values)
