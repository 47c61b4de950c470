"""What a task of the app must remember to go on after it was killed: its choices, and how far it had come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrda_core.whole_file import write_whole

UNFINISHED = ("preparing", "training", "finalizing")


class SessionFile:
    """session.json of a task: {"phase", "app_state", "config", "record"}; written atomically.

    phase: one of `UNFINISHED`, or "failed", "stopped" or "done". config: of the core, as plain data. record: what the
    experiment's files need once training is over (classes, image ids, figures).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """{} where there is none, or one that a full disk cut short."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def update(self, **fields: Any) -> None:
        write_whole(self.path, json.dumps({**self.read(), **fields}, indent=1).encode("utf-8"))

    def is_unfinished(self) -> bool:
        return self.read().get("phase") in UNFINISHED

    def has(self, state: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        """Whether a former start of the task had the same data, classes and settings; the device does not matter."""
        before = self.read()
        same = all(_plain(state[key]) == before.get("app_state", {}).get(key) for key in ("input", "classes"))
        return same and _without_device(_plain(config)) == _without_device(before.get("config", {}))


def _plain(content: Any) -> Any:
    """As it looks after its way through a file."""
    return json.loads(json.dumps(content))


def _without_device(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "device"}
