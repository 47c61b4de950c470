"""The SDK's page without a server: widgets hold their state in two dictionaries, one entry for each id."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from supervisely.app import DataJson, StateJson


@contextlib.contextmanager
def empty_page() -> Iterator[None]:
    """Widgets with the ids of earlier ones can be made again."""
    for content in (DataJson(), StateJson()):
        content.clear()
    yield
    for content in (DataJson(), StateJson()):
        content.clear()


def type_into(widget: Any, **state: Any) -> None:
    """What the browser sends before it tells of a change."""
    StateJson()[widget.widget_id].update(state)


def page_size() -> int:
    """Bytes of everything that a browser gets when it opens the page."""
    return len(json.dumps([dict(DataJson()), dict(StateJson())]))
