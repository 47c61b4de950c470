"""What a task of the app must remember to go on after it was killed: its choices, and how far it had come."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        temporary.write_text(json.dumps({**self.read(), **fields}, indent=1), encoding="utf-8")
        temporary.replace(self.path)

    def is_unfinished(self) -> bool:
        return self.read().get("phase") in UNFINISHED
