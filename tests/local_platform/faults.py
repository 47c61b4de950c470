"""Faults on demand: error answers, delays, answers cut short, connections torn down."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .call import Refusal
from .patience import patient

API = "/public/api/v3/"


@dataclass
class Fault:
    method: str  # of the API; "net", "image-storage" and so on for the other routes; "*" for everything under the API
    times: int | None  # how often it strikes, None for ever
    status: int | None
    headers: dict[str, str]
    message: str
    delay: float
    truncate: bool
    reset: bool
    skip: int  # let so many matching calls pass first
    when: Callable[[dict[str, Any]], bool] | None
    hits: int = 0


class Faults:
    """The faults that wait for their call. Each call meets at most one, the oldest that fits."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        *,
        times: int | None = 1,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        message: str = "injected fault",
        delay: float = 0.0,
        truncate: bool = False,
        reset: bool = False,
        skip: int = 0,
        when: Callable[[dict[str, Any]], bool] | None = None,
    ) -> Fault:
        """Let the next calls of `method` fail; `when` sees the JSON body, or the query of calls without one."""
        fault = Fault(method, times, status, headers or {}, message, delay, truncate, reset, skip, when)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def awaited(self, method: str) -> bool:
        with self._lock:
            return any(fault.method in (method, "*") for fault in self._faults)

    def take(self, method: str, body: dict[str, Any]) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method not in (method, "*") or (fault.when and not fault.when(body)):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                if fault.times is not None and fault.hits >= fault.times:
                    self._faults.remove(fault)
                return fault
        return None


class Connections(dict[tuple[str, int], asyncio.Transport]):
    """The open connections by the address of the client, so that a fault can get hold of the socket behind a request."""

    def reset(self, client: tuple[str, int]) -> None:
        """Close without an answer: the client sees `connection reset by peer`."""
        transport = self.pop(client, None)
        if transport is not None and not transport.is_closing():  # a WebSocket's is not taken out when it closes
            linger_not = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            transport.abort()

    def reset_all(self) -> None:
        for client in list(self):
            self.reset(client)

    def protocol(self) -> type[H11Protocol]:
        """uvicorn's HTTP protocol, which also notes its connections here."""
        connections = self

        class TrackedProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                connections[transport.get_extra_info("peername")[:2]] = transport
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client is not None:
                    connections.pop(self.client, None)
                super().connection_lost(exc)

        return TrackedProtocol


class FaultInjector:
    """The outermost layer of the server: counts calls, and lets faults strike before or instead of the answer."""

    def __init__(self, app: ASGIApp, faults: Faults, connections: Connections, calls: Counter[str], body_timeout: float) -> None:
        self.app = app
        self.faults = faults
        self.connections = connections
        self.calls = calls
        self.body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"].startswith("/local/"):
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        method = path.removeprefix(API) if path.startswith(API) else path.strip("/").split("/")[0]
        self.calls[method] += 1
        receive = patient(receive, self.body_timeout)
        if not self.faults.awaited(method):
            await self.app(scope, receive, send)
            return
        try:
            messages = await _whole_request(receive)
        except Refusal as refusal:
            await JSONResponse(refusal.body, refusal.status, {"connection": "close"})(scope, receive, send)
            return
        fault = self.faults.take(method, _fields(scope, messages))
        if fault is None:
            await self.app(scope, _replay(messages, receive), send)
            return
        await asyncio.sleep(fault.delay)
        if fault.reset:
            self.connections.reset(scope["client"])
            await receive()  # the news that the client is gone; uvicorn would complain of a missing answer before
        elif fault.status is not None:
            body = {"error": fault.message, "details": {"message": fault.message}}
            await JSONResponse(body, fault.status, fault.headers)(scope, receive, send)
        elif fault.truncate:
            await self._cut_short(scope, _replay(messages, receive))
            await receive()
        else:
            await self.app(scope, _replay(messages, receive), send)

    async def _cut_short(self, scope: Scope, receive: Receive) -> None:
        """The true answer's head and half of its body, written past the HTTP library, which would not lie about the length."""
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self.app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in answer)
        head = [b"HTTP/1.1 %d OK" % answer[0]["status"], b"content-length: %d" % max(len(body), 2)]
        head += [name + b": " + value for name, value in answer[0]["headers"] if name.lower() != b"content-length"]
        transport = self.connections.pop(scope["client"])
        transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body[: len(body) // 2])
        transport.close()


async def _whole_request(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = list(messages)

    async def again() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return again


def _fields(scope: Scope, messages: list[Message]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(parse_qsl(scope["query_string"].decode()))
    if dict(scope["headers"]).get(b"content-type", b"").startswith(b"application/json"):
        body = json.loads(b"".join(message.get("body", b"") for message in messages) or b"{}")
        fields.update(body if isinstance(body, dict) else {"items": body})
    return fields
