"""A page hears of every change, whichever thread made it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from supervisely.app import DataJson, StateJson
from supervisely.app.fastapi.websocket import WebsocketManager
from websockets.sync.client import ClientConnection, connect

from sdk_fixes.page_messages import send_from_the_server
from tests.served import served

CHANGES = 150


@pytest.fixture
def page_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server with the SDK's web socket as both apps have it."""
    for name in ("connect", "disconnect"):
        monkeypatch.setattr(WebsocketManager, name, getattr(WebsocketManager, name))  # put back at the end
    send_from_the_server()
    manager = WebsocketManager()
    monkeypatch.setattr(manager, "active_connections", [])
    app = FastAPI()
    app.add_api_websocket_route(path="/sly/ws", endpoint=manager.endpoint)
    with served(app) as address:
        yield f"{address.replace('http', 'ws', 1)}/sly/ws"


def wait_for_tabs(number: int) -> None:
    while len(WebsocketManager().active_connections) != number:
        time.sleep(0.01)


def changes(tab: ClientConnection, name: str) -> dict[str, list[Any]]:
    """What the tab is sent of `name`, of both parts, until both have had their last change."""
    seen: dict[str, list[Any]] = {"data": [], "state": []}
    while any(values[-1:] != [CHANGES] for values in seen.values()):
        for part, patch in json.loads(tab.recv(timeout=60)).items():
            seen[part] += [change["value"] for change in patch if change["path"] == f"/{name}/count"]
    return seen


def test_two_threads_that_change_a_page_at_once_are_both_heard_in_order(page_address: str) -> None:
    def change(content: Any) -> None:
        for count in range(1, CHANGES + 1):
            content["busy"] = {"count": count, "text": "x" * 50_000 * (count % 3)}
            content.send_changes()

    contents = (DataJson(), StateJson())
    for content in contents:
        content["busy"] = {"count": 0, "text": ""}
        content.send_changes()
    try:
        with connect(page_address, max_size=None) as one, connect(page_address, max_size=None) as other:
            wait_for_tabs(2)
            threads = [threading.Thread(target=change, args=[content]) for content in contents]
            for thread in threads:
                thread.start()
            for tab in (one, other):
                assert changes(tab, "busy") == {part: list(range(1, CHANGES + 1)) for part in ("data", "state")}
            for thread in threads:
                thread.join()
    finally:
        for content in contents:
            del content["busy"]
            content.send_changes()


def test_a_closed_tab_is_forgotten_and_the_others_are_served(page_address: str) -> None:
    content = DataJson()
    with connect(page_address) as stays:
        with connect(page_address):
            wait_for_tabs(2)
        wait_for_tabs(1)
        content["after"] = 1
        content.send_changes()
        assert json.loads(stays.recv(timeout=60)) == {"data": [{"op": "add", "path": "/after", "value": 1}]}
    wait_for_tabs(0)
    del content["after"]
    content.send_changes()  # to nobody
