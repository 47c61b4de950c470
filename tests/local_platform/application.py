"""The HTTP side: one route for all methods of the API, and a few for tests in other processes."""

from __future__ import annotations

import inspect
import json
import tempfile
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from . import (
    accounts,
    annotations,
    datasets,
    ecosystem,
    entities_collections,
    figures,
    files,
    images,
    project_stats,
    projects,
    proxy,
    storage,
    tasks,
)
from .call import Call, Method, Refusal

if TYPE_CHECKING:
    from .server import LocalPlatform

AREAS = [accounts, annotations, datasets, ecosystem, entities_collections, figures, files, images, projects, proxy, tasks]
AREAS += [project_stats]
METHODS: dict[str, Method] = {name: method for area in AREAS for name, method in area.METHODS.items()}
NO_LIMIT = 1 << 30  # Starlette's own limits are below what the SDK sends


def build(platform: LocalPlatform, pages: Callable[[FastAPI, LocalPlatform], None] | None = None) -> FastAPI:
    app = FastAPI()
    # the apps' pages call the API from the browser, from any port
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=["*"])

    @app.api_route("/public/api/v3/{method}", methods=["GET", "POST"])
    async def api(method: str, request: Request) -> Response:
        try:
            if request.headers.get("x-api-key") != platform.token:
                raise Refusal(401, "the API token is wrong or missing")
            if method not in METHODS:
                platform.unknown[method] += 1
                raise Refusal(501, f"{method} is not implemented by the local platform")
            call = await _read(platform, method, request)
            if inspect.iscoroutinefunction(METHODS[method]):
                result = await METHODS[method](call)
                return result if isinstance(result, Response) else JSONResponse(result)
            return await run_in_threadpool(_answer, call)
        except Refusal as refusal:
            # after a body that never came, the connection is of no use
            return JSONResponse(refusal.body, refusal.status, {"connection": "close"} if refusal.status == 408 else None)

    if pages is not None:
        pages(app, platform)

    @app.get("/")
    async def hello() -> dict[str, str]:
        return {"name": "local platform"}

    _add_test_routes(app, platform)
    proxy.add_routes(app, platform)
    storage.add_routes(app, platform)
    return app


async def _read(platform: LocalPlatform, method: str, request: Request) -> Call:
    task_id = request.headers.get("x-task-id", "")
    call = Call(platform, method, {}, request.query_params, task_id=int(task_id) if task_id.isdigit() else None)
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json"):
        try:
            call.body = json.loads(await request.body() or b"{}")
        except ValueError as error:
            raise Refusal(400, f"{method}: the body is not JSON: {error}") from error
    elif kind.startswith("multipart/"):
        form = await request.form(max_files=NO_LIMIT, max_fields=NO_LIMIT, max_part_size=NO_LIMIT)
        call.form = form.multi_items()
    elif request.method == "POST":
        call.upload = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 - lives as long as the call
        async for chunk in request.stream():
            call.upload.write(chunk)
        call.upload.seek(0)
    return call


def _answer(call: Call) -> Response:
    """Run a method alone, and write the answer before anybody changes the rows in it."""
    with call.store.lock:
        try:
            result = METHODS[call.method](call)
            return result if isinstance(result, Response) else Response(json.dumps(result), media_type="application/json")
        except Refusal:
            raise
        except Exception as error:  # 500 would be retried for minutes
            call.platform.errors.append(traceback.format_exc())
            raise Refusal(400, f"{call.method}: the local platform failed: {error!r}") from error
        finally:
            call.store.commit()


def _add_test_routes(app: FastAPI, platform: LocalPlatform) -> None:
    @app.get("/local/unknown")
    async def unknown() -> dict[str, int]:
        return dict(platform.unknown)

    @app.get("/local/calls")
    async def calls() -> dict[str, int]:
        return dict(platform.calls)

    @app.get("/local/errors")
    async def errors() -> list[str]:
        return platform.errors

    @app.get("/local/tasks/{task_id}")
    def task(task_id: int) -> dict[str, Any]:
        return platform.task(task_id)

    @app.post("/local/tasks")
    def start_task(options: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `start_task`; answers with the task's id and environment."""
        task_id = platform.start_task(**options)
        return {"id": task_id, "environment": platform.environment(task_id=task_id), "url": platform.session_url(task_id)}

    @app.post("/local/faults")
    async def add_fault(options: dict[str, Any]) -> dict[str, bool]:
        """The arguments of `faults.add`; instead of `when`, `match` with fields that the body must have."""
        match = options.pop("match", None)
        when = (lambda body: all(body.get(key) == value for key, value in match.items())) if match else None
        platform.faults.add(**options, when=when)
        return {"success": True}

    @app.delete("/local/faults")
    async def clear_faults() -> dict[str, bool]:
        platform.faults.clear()
        return {"success": True}

    @app.post("/local/away")
    async def away(options: dict[str, float]) -> dict[str, bool]:
        platform.away(options["seconds"], after=0.05)  # after this answer is out
        return {"success": True}
