"""What a person sees of the local platform: the apps' pages in our shell, projects, files, and a page that lists all of it."""

from __future__ import annotations

import html
import importlib.util
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from tests.local_platform import LocalPlatform

from .libraries import MODULES, SCRIPTS, SHELL, STYLES, local_page

SDK = Path(str(importlib.util.find_spec("supervisely").origin)).resolve().parent  # type: ignore[union-attr]
ENDED = '<div style="margin: 60px; font-family: sans-serif">This session has ended. <a href="/">What else there is</a></div>'


def add_pages(app: FastAPI, platform: LocalPlatform) -> None:
    """Routes that come before the platform's own proxy."""
    app.mount("/npm", StaticFiles(directory=MODULES))
    app.mount("/shell", Fresh(directory=SHELL))
    _add_app_pages(app, platform)
    _add_platform_pages(app, platform)


class Fresh(StaticFiles):
    """Files that somebody may be editing: the browser asks each time."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["cache-control"] = "no-cache"
        return response


def _add_app_pages(app: FastAPI, platform: LocalPlatform) -> None:
    pages: dict[str, str] = {}  # by session token: the page as last seen, for after the app's end

    @app.get("/net/{token}/")
    async def page(token: str) -> Response:
        try:
            answer = await platform.client.get(f"{await run_in_threadpool(_address, platform, token)}/")
            answer.raise_for_status()
            pages[token] = local_page(answer.text)
        except (httpx.HTTPError, LookupError):
            if token not in pages:
                return HTMLResponse(ENDED, 404)
        return HTMLResponse(pages[token])

    @app.post("/net/{token}/sly/{name}")
    async def content(token: str, name: str, request: Request) -> Response:
        """`session-info`, `state` and `data`; of an app that has ended, what it sent last."""
        try:
            address = await run_in_threadpool(_address, platform, token)
            headers = {"content-type": request.headers.get("content-type", "")}
            answer = await platform.client.post(f"{address}/sly/{name}", content=await request.body(), headers=headers)
        except (httpx.HTTPError, LookupError):
            task = await run_in_threadpool(_task, platform, token)
            info = {"TASK_ID": str(task["id"]), "SERVER_ADDRESS": platform.address, "API_TOKEN": platform.token}
            return JSONResponse({"session-info": info, "state": task["state"], "data": task["data"]}[name])
        return Response(answer.content, answer.status_code, media_type="application/json")

    @app.get("/net/{token}/sly/css/{path:path}")
    async def sdk_file(token: str, path: str) -> Response:
        """The SDK's own styles and scripts, also after the app's end."""
        file = (SDK / path).resolve()
        return FileResponse(file) if file.is_relative_to(SDK) and file.is_file() else Response("no such file", 404)


def _add_platform_pages(app: FastAPI, platform: LocalPlatform) -> None:
    @app.get("/")
    def index() -> Response:
        return _own_page("Local platform", "overview")

    @app.get("/apps/{app_id}/sessions/{task_id}")
    def session(app_id: int, task_id: int) -> Response:
        """Where the SDK's links to a session lead."""
        return RedirectResponse(f"/net/{platform.task(task_id)['meta']['sessionToken']}/")

    @app.get("/projects/{project_id}/{rest:path}")
    def project(project_id: int, rest: str) -> Response:
        return _own_page("Project", "project")

    @app.get("/files/{rest:path}")
    def files(rest: str) -> Response:
        """Where the SDK's links to Team Files lead."""
        return _own_page("Team Files", "files")

    @app.get("/local/session")
    def account() -> dict[str, Any]:
        """For our own pages, what an app's page gets from its app."""
        ids = {"team": platform.team_id, "workspace": platform.workspace_id}
        tasks = platform.store.tasks.all()
        sessions = [
            {"id": task["id"], "name": task["meta"]["name"], "token": task["meta"]["sessionToken"], "open": bool(task["appUrl"])}
            for task in tasks
        ]
        return {"API_TOKEN": platform.token, "sessions": sessions, **ids}


def _own_page(title: str, name: str) -> Response:
    head = "".join(f'<link rel="stylesheet" href="{address}">' for address in STYLES)
    scripts = "".join(f'<script src="{address}"></script>' for address in SCRIPTS)
    return HTMLResponse(
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<link rel="icon" href="data:,">{head}</head><body>{scripts}<div id="page"></div>'
        f'<script type="module" src="/shell/pages/{name}.js"></script></body></html>'
    )


def _task(platform: LocalPlatform, token: str) -> dict[str, Any]:
    for task in platform.store.tasks.all():
        if task["meta"]["sessionToken"] == token:
            return platform.task(task["id"])
    raise LookupError("no task has this session token")


def _address(platform: LocalPlatform, token: str) -> str:
    """Raises LookupError where the app has not started, or has ended."""
    address = _task(platform, token)["appUrl"]
    if not address:
        raise LookupError("the app has no address")
    return str(address)
