"""Classes of a data set: names, colours, and the numbers that stand for them in mask files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrda_core.whole_file import write_whole

IGNORE = 255
_FORMAT = 'write a list in index order of {"name": "crack", "color": [220, 20, 60], "value": 255} and the like'
BACKGROUND_NAMES = ("background", "bg", "__bg__", "_background_")


@dataclass(frozen=True)
class ClassInfo:
    """One class. `value` is its number in mask files; in memory a mask holds the class's index."""

    name: str
    color: tuple[int, int, int]
    value: int


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """The classes of a classes.json, in index order.

    Raises:
        ValueError: not a list of {"name", "color", "value"}, a value out of range, or a name or value that occurs twice.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): {_FORMAT}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds {str(entries)[:40]}: {_FORMAT}")
    if not entries:
        raise ValueError(f"{path}: the list of classes is empty: {_FORMAT}")
    classes = [_entry(entry, f"{path}: entry {number}") for number, entry in enumerate(entries, start=1)]
    for name, color, value in classes:
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ValueError(f"{path}: class {name!r} has color {color}; give three numbers from 0 to 255")
        if not 0 <= value <= 255:
            raise ValueError(f"{path}: class {name!r} has value {value}; masks are 8-bit, so use 0 to 255")
    for what, given in (("names", [c[0] for c in classes]), ("values", [c[2] for c in classes])):
        if len(set(given)) < len(classes):
            raise ValueError(f"{path}: the {what} {given} are not all different; give every class its own")
    return tuple(ClassInfo(name, (color[0], color[1], color[2]), value) for name, color, value in classes)


def _entry(entry: Any, where: str) -> tuple[str, list[int], int]:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {str(entry)[:40]!r}: {_FORMAT}")
    missing = [name for name in ("name", "color", "value") if name not in entry]
    if missing:
        raise ValueError(f"{where} ({entry.get('name', 'without a name')}) has no {missing[0]!r}: {_FORMAT}")
    try:
        return str(entry["name"]), [int(part) for part in entry["color"]], int(entry["value"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} ({entry['name']}) has a color or value that is no number: {_FORMAT}") from error


def write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    entries = [{"name": c.name, "color": list(c.color), "value": c.value} for c in classes]
    write_whole(path, json.dumps(entries, indent=1).encode())
