"""The way to the apps: `/net/{session token}/...` for clients and browsers, `tasks.request.direct` for the SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import websockets
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from .call import Call, Method, Refusal

if TYPE_CHECKING:
    from .server import LocalPlatform

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "content-length"}


async def request_direct(call: Call) -> Response:
    """Hand a command to an app, with the address and token of this platform, as the platform's own requests carry them."""
    address = await run_in_threadpool(_address_of, call.platform, int(call["taskId"]))
    context = {**call.get("context", {}), "apiToken": call.platform.token}
    body = {
        "command": call["command"],
        "context": context,
        "state": call.get("state", {}),
        "server_address": call.platform.address,
        "api_token": call.platform.token,
    }
    try:
        answer = await call.platform.client.post(f"{address}/{call['command']}", json=body)
    except httpx.TransportError as error:
        raise Refusal(502, f"the app of task {call['taskId']} does not answer: {error!r}") from error
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _address_of(platform: LocalPlatform, task_id: int) -> str:
    """Where the app of a task listens. It waits for the store, so it is not for the event loop."""
    with platform.store.lock:
        task = platform.store.tasks.get(task_id)
        if not task["appUrl"]:
            raise Refusal(502, f"task {task_id} has no app yet: LocalPlatform.start_task(app_url, task_id={task_id})")
        return str(task["appUrl"]).rstrip("/")


def _address_behind(platform: LocalPlatform, session_token: str) -> str:
    with platform.store.lock:
        for task in platform.store.tasks.all():
            if task["meta"]["sessionToken"] == session_token:
                return _address_of(platform, task["id"])
    raise Refusal(404, "no task has this session token")


def add_routes(app: FastAPI, platform: LocalPlatform) -> None:
    @app.api_route("/net/{token}/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
    async def forward(token: str, path: str, request: Request) -> Response:
        try:
            address = await run_in_threadpool(_address_behind, platform, token)
            onward = platform.client.build_request(
                request.method,
                f"{address}/{path}",
                params=request.query_params.multi_items(),
                headers=[(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP],
                content=request.stream() if request.method in ("POST", "PUT", "PATCH", "DELETE") else None,
            )
            answer = await platform.client.send(onward, stream=True)
        except Refusal as refusal:
            return JSONResponse(refusal.body, refusal.status)
        except httpx.TransportError as error:
            return JSONResponse({"error": f"the app does not answer: {error!r}"}, 502)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        # the length stays, so that a cut-off answer of the app is seen as one
        skip = HOP_BY_HOP - {"content-length"}
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in skip}
        return StreamingResponse(body(), answer.status_code, headers)

    @app.websocket("/net/{token}/{path:path}")
    async def forward_socket(token: str, path: str, browser: WebSocket) -> None:
        try:
            address = await run_in_threadpool(_address_behind, platform, token)
            socket = await websockets.connect(f"{address.replace('http', 'ws', 1)}/{path}", max_size=None)
        except (Refusal, OSError, websockets.WebSocketException):
            await browser.close(code=1011)
            return
        await browser.accept()

        async def to_app() -> None:
            while True:
                message: dict[str, Any] = dict(await browser.receive())
                if message["type"] == "websocket.disconnect":
                    return
                await socket.send(message["text"] if message.get("text") is not None else message["bytes"])

        async def to_browser() -> None:
            async for message in socket:
                await (browser.send_text(message) if isinstance(message, str) else browser.send_bytes(message))

        pumps = [asyncio.ensure_future(to_app()), asyncio.ensure_future(to_browser())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, websockets.WebSocketException, RuntimeError):
                await pump
        await socket.close()
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the browser may be gone already
            await browser.close()


METHODS: dict[str, Method] = {"tasks.request.direct": request_direct}
