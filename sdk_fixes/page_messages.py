"""Changes of a page, sent over its web socket by one thread, in order.

The SDK (6.74.51) sends from whichever thread changes a widget, in an event loop made for that one message. Sockets belong to the
server's loop and are not made for that: of two threads that send at once, one message cuts into the other, or an error drops it.
The page then shows old figures until it is loaded anew.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from supervisely.app.fastapi.websocket import WebsocketManager


class Line:
    """Messages on their way to one tab. `put` may be called from any thread and loop; the server's loop sends them one by one."""

    def __init__(self, manager: WebsocketManager, socket: WebSocket) -> None:
        self._manager, self._socket = manager, socket
        self._send = socket.send_json
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()
        self.task = self._loop.create_task(self._send_all())

    async def put(self, message: Any) -> None:
        if not self._loop.is_closed():  # else the server has ended, and the page with it
            self._loop.call_soon_threadsafe(self._waiting.put_nowait, message)

    async def _send_all(self) -> None:
        try:
            while True:
                await self._send(await self._waiting.get())
        except (WebSocketDisconnect, RuntimeError, OSError):  # the tab was closed
            self._manager.disconnect(self._socket)


_sdk_connect, _sdk_disconnect = WebsocketManager.connect, WebsocketManager.disconnect


async def _connect(manager: WebsocketManager, socket: WebSocket) -> None:
    socket.state.line = Line(manager, socket)
    # the SDK calls it while the page's state is locked, so changes come in the order in which they were made
    socket.send_json = socket.state.line.put  # type: ignore[method-assign]
    await _sdk_connect(manager, socket)


def _disconnect(manager: WebsocketManager, socket: WebSocket) -> None:
    socket.state.line.task.cancel()
    _sdk_disconnect(manager, socket)


def send_from_the_server() -> None:
    """From now on; call it before the first page connects."""
    WebsocketManager.connect, WebsocketManager.disconnect = _connect, _disconnect
