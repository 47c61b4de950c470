"""What every request passes, the SDK's own routes included: a request id, the limit of bytes, sound JSON, and counters.

Written against ASGI itself: it must see a body before anything reads it, and answer where what is behind it breaks.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.limits import VARIABLES, Refused
from serve_app.service import Service

MAX_JSON = 32 * 2**20  # bytes: JSON is read whole, and by the SDK once more
CLIENT_GONE = 499  # status, as nginx has it, where nobody waited for the answer
NO_BODY = ("GET", "HEAD", "OPTIONS")


def error_response(refused: Refused, request_id: str) -> JSONResponse:
    """The one shape of errors. `detail` is where the SDK's clients look."""
    headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    content = {
        "success": False,
        "code": refused.code,
        "message": str(refused),
        "detail": str(refused),
        "request_id": request_id,
    }
    return JSONResponse(content, refused.status, headers)


def add_gate(server: FastAPI, service: Service) -> None:
    """As the outermost middleware; also where the server has answered a request already, as the SDK's has in production."""
    server.user_middleware.insert(0, Middleware(Gate, service=service))
    server.middleware_stack = None  # built at the next request


class Gate:
    """ASGI middleware. The id of a request is that of its header X-Request-Id, where it has a sensible one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w\-.]{1,64}", given, re.ASCII) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        body = _Body(receive, self._service.limits.body_bytes)
        try:
            try:
                await self._pass(scope, headers, body, answer)
            except Refused as refused:
                await error_response(refused, request_id)(scope, receive, answer)
        except Exception:
            answer.status = answer.status or 500
            raise
        finally:
            status = answer.status or CLIENT_GONE
            self._service.metrics.observe(_route(scope), _method(scope), status, time.perf_counter() - start)

    async def _pass(self, scope: Scope, headers: Headers, body: _Body, answer: _Answer) -> None:
        announced = headers.get("content-length", "0")
        if not announced.isdecimal():
            raise Refused(400, "bad_request", "Content-Length is no number")
        body.check(int(announced))
        # The SDK parses whatever calls itself JSON, before any route, and takes for granted that it is an object.
        empty = scope["method"] in NO_BODY and not int(announced) and "transfer-encoding" not in headers
        if "application/json" in headers.get("content-type", "") and not empty:
            await body.read_json()

        async def send(message: Message) -> None:
            if not body.exceeded:  # what the app makes of a body that breaks off is of no use
                await answer(message)

        try:
            await self._app(scope, body, send)
        except Exception:
            if not body.exceeded:
                raise
        if body.exceeded and answer.status == 0:
            raise body.too_large()


class _Body:
    """`receive` with a limit of bytes; beyond it the client seems to be gone."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._taken = 0
        self._ready: list[Message] = []
        self.exceeded = False

    async def __call__(self) -> Message:
        if self._ready:
            return self._ready.pop()
        if self.exceeded:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._taken += len(message.get("body", b""))
        self.exceeded = self._taken > self._limit
        return {"type": "http.disconnect"} if self.exceeded else message

    def check(self, announced: int) -> None:
        if announced > self._limit:
            raise self.too_large()

    def too_large(self) -> Refused:
        limit = f"{self._limit / 2**20:g} MB"
        return Refused(413, "body_too_large", f"the request has more than {limit}: send less, or raise {VARIABLES['body_mb']}")

    async def read_json(self) -> None:
        """Raises Refused where it is no JSON object, or one that the SDK would stumble over."""
        limit = min(self._limit, MAX_JSON)
        content = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._ready = [message]
                return
            content += message.get("body", b"")
            more = message.get("more_body", False)
            if len(content) > limit:
                raise Refused(413, "json_too_large", f"the JSON has more than {limit / 2**20:g} MB: send images as files")
        value = check_json(bytes(content))
        if _forget_server(value):
            content = bytearray(json.dumps(value).encode())
        self._ready = [{"type": "http.request", "body": bytes(content), "more_body": False}]


def _forget_server(value: dict[str, Any]) -> bool:
    """Whether a server was named: the SDK would call it, with our network's reach. An app belongs to the platform it runs on."""
    named = [("server_address", value)]
    for part in (value.get("state"), value.get("context")):
        named += [(name, part) for name in ("server_address", "serverAddress") if part]
    if value.get("state"):
        named.append(("api_token", value["state"]))  # the SDK takes it for that server only
    found = [(name, part) for name, part in named if name in part]
    for name, part in found:
        del part[name]
    return bool(found)


def check_json(content: bytes) -> dict[str, Any]:
    """Raises Refused (400) where it is no JSON object, or its `state` or `context` is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad_json", f"the body is no JSON ({str(error)[:100]}); correct it") from error
    if not isinstance(value, dict):
        raise Refused(400, "bad_json", f"the JSON is of type {type(value).__name__}; send an object")
    for name in ("state", "context"):
        if not isinstance(value.get(name, {}), dict | None):
            raise Refused(400, "bad_json", f"{name} is of type {type(value[name]).__name__}; send an object")
    return value


class _Answer:
    """`send` that adds the request's id and remembers the status; 0 until the answer began."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._id = request_id.encode()
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self._id)]}
        await self._send(message)


def _route(scope: Scope) -> str:
    """The route's pattern: paths as they come would be a new time series each."""
    path = getattr(scope.get("route"), "path", None)
    if path:
        return str(path)
    return "/sly" if str(scope.get("path", "")).startswith("/sly/") else "other"


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in (*NO_BODY, "POST", "PUT", "PATCH", "DELETE") else "other"
