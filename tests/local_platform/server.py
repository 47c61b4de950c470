"""The platform as an object: a server in a thread, and what tests ask of it."""

from __future__ import annotations

import asyncio
import copy
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import supervisely as sly
import uvicorn
from fastapi import FastAPI

from . import ecosystem
from .application import build
from .faults import Connections, FaultInjector, Faults
from .store import Row, Store, now
from .tasks import new_task

TOKEN = "local-platform-token"


class LocalPlatform:
    """`with LocalPlatform() as platform: api = platform.api()`. With a directory, a later platform there knows everything.

    Loopback only. `per_page` is small, so that clients really page; `quota` is in bytes of stored content, None for no limit;
    `body_timeout` is the time in seconds that a client may let the body of its request wait. `pages` adds what a person sees.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        port: int = 0,
        token: str = TOKEN,
        per_page: int = 50,
        quota: int | None = None,
        body_timeout: float = 5.0,
        pages: Callable[[FastAPI, LocalPlatform], None] | None = None,
    ) -> None:
        self.store = Store(Path(directory) if directory else None, quota)
        self.token = token
        self.per_page = per_page
        self.faults = Faults()
        self.calls: Counter[str] = Counter()  # every method that was called
        self.unknown: Counter[str] = Counter()  # methods that are not implemented
        self.errors: list[str] = []  # tracebacks of the platform's own failures
        self.launcher: Callable[[dict[str, Any]], str] | None = None  # starts the app of a task (tasks.run.app), returns its URL
        if self.store.empty:
            team = self.store.teams.add(name="Local team", description="", role="admin", usage={"plan": "local"})
            self.store.workspaces.add(name="Local workspace", description="", teamId=team["id"])
            ecosystem.seed(self.store)
            self.store.commit()
        self.team_id: int = self.store.teams.all()[0]["id"]
        self.workspace_id: int = self.store.workspaces.of(self.team_id)[0]["id"]

        self._socket = self._listen(port)
        self.port: int = self._socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._connections = Connections()
        config = uvicorn.Config(
            FaultInjector(build(self, pages), self.faults, self._connections, self.calls, body_timeout),
            http=self._connections.protocol(),
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="local platform", daemon=True)

    def api(self, token: str | None = None, retry_count: int = 10, retry_sleep_sec: float = 0.05) -> sly.Api:
        """The unmodified SDK, connected here; it waits shortly before it tries again, so that tests are quick."""
        sly.Api._checked_servers.add(self.address)  # otherwise each new address is first tried with https
        api = sly.Api(self.address, token or self.token, retry_count=retry_count)
        api.retry_sleep_sec = retry_sleep_sec
        return api

    def environment(
        self, project_id: int | None = None, task_id: int | None = None, workspace_id: int | None = None
    ) -> dict[str, str]:
        """What the process of an app finds in its environment in production; its folders are inside the platform's."""
        workspace_id = workspace_id or self.workspace_id
        with self.store.lock:
            if project_id is not None:
                workspace_id = self.store.projects.get(project_id)["workspaceId"]
            team_id = self.store.workspaces.get(workspace_id)["teamId"]
            name = self.store.tasks.get(task_id)["meta"]["name"] if task_id is not None else "local app"
        data = self.store.directory / "apps" / str(task_id or "no_task")
        data.mkdir(parents=True, exist_ok=True)
        variables = {
            "ENV": "production",
            "SERVER_ADDRESS": self.address,
            "API_TOKEN": self.token,
            "SUPERVISELY_SKIP_HTTPS_USER_HELPER_CHECK": "true",
            "TEAM_ID": str(team_id),
            "WORKSPACE_ID": str(workspace_id),
            "APP_NAME": name,
            "USER_ID": "1",
            "USER_LOGIN": "admin",
            "SLY_APP_DATA_DIR": str(data),
            "APPS_CACHE_DIR": str(self.store.directory / "apps_cache"),
            "SMART_CACHE_CONTAINER_DIR": str(data / "smart_cache"),
        }
        if project_id is not None:
            variables |= {"PROJECT_ID": str(project_id), "modal.state.slyProjectId": str(project_id)}
        if task_id is not None:
            variables |= {"TASK_ID": str(task_id), "SUPERVISELY_TASK_ID": str(task_id)}  # the second is what sly.Api reads
        return variables

    def start_task(
        self,
        app_url: str | None = None,
        task_id: int | None = None,
        app: str = "Serve HRDA",
        workspace_id: int | None = None,
        params: dict[str, Any] | None = None,
    ) -> int:
        """A new session of an app, or with `task_id` the address of one that was started without. Returns its id."""
        with self.store.lock:
            if task_id is not None:
                self.store.tasks.change(self.store.tasks.get(task_id), appUrl=app_url)
            else:
                modules = {module["name"]: module["id"] for module in self.store.modules.all()}
                task_id = new_task(self.store, workspace_id or self.workspace_id, app, app_url, modules.get(app), params)["id"]
            self.store.commit()
            return task_id

    def end_task(self, task_id: int, status: str = "finished") -> None:
        """What the agent reports when the process of an app is gone."""
        with self.store.lock:
            self.store.tasks.change(self.store.tasks.get(task_id), status=status, finishedAt=now(), appUrl=None)
            self.store.commit()

    def task(self, task_id: int) -> Row:
        """A copy of all that is known of a task: status, meta (with output), data, state, fields, workflow, logs."""
        with self.store.lock:
            return copy.deepcopy(self.store.tasks.get(task_id))

    def session_url(self, task_id: int) -> str:
        return f"{self.address}/net/{self.task(task_id)['meta']['sessionToken']}"

    def away(self, seconds: float, after: float = 0.0) -> None:
        """Refuse every connection for a while, and drop those that are open. Returns when the port is closed."""
        closed = threading.Event()

        async def leave() -> None:
            await asyncio.sleep(after)
            for server in self._server.servers:
                server.close()
            self._connections.reset_all()
            closed.set()
            await asyncio.sleep(seconds)
            await self._server.startup(sockets=[self._listen(self.port)])

        asyncio.run_coroutine_threadsafe(leave(), self._loop)
        if threading.current_thread() is not self._thread:
            closed.wait()

    def __enter__(self) -> LocalPlatform:
        started = threading.Event()
        self._started = started
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.store.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return listener

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        # to the apps: no time limit (predictions take long), no proxy from the environment
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as self.client:
            self._server.config.load()
            self._server.lifespan = self._server.config.lifespan_class(self._server.config)
            await self._server.startup(sockets=[self._socket])
            self._started.set()
            await self._stop.wait()
            for server in self._server.servers:
                server.close()
            self._connections.reset_all()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
