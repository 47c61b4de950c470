"""The apps as real processes against a local platform: the literal entrypoints of their config.json."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from tests.local_platform import LocalPlatform

ROOT = Path(__file__).parents[1]
PATIENCE = 400.0  # seconds until something must have happened: machines that test are busy, and no test times anything


def entrypoint(app: str, port: int) -> list[str]:
    """The command in the app's config.json, with this interpreter and a free port."""
    words = shlex.split(json.loads((ROOT / app / "config.json").read_text())["entrypoint"])
    assert words[0] == "python3"
    words[words.index("--port") + 1] = str(port)
    words[words.index("--host") + 1] = "127.0.0.1"
    return [sys.executable, *words[1:]]


class AppProcess:
    """An app of a task. `with AppProcess(...) as app: app.post("train_from_api", {...})`."""

    def __init__(self, platform: LocalPlatform, app: str, name: str, project_id: int | None, task_id: int | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.platform, self.app = platform, app
        self.task_id = task_id or platform.start_task(self.url, app=name)
        platform.start_task(self.url, task_id=self.task_id)
        self.environment = platform.environment(project_id=project_id, task_id=self.task_id)
        self.data = Path(self.environment["SLY_APP_DATA_DIR"])
        self.log_file = self.data.parent / f"{self.task_id}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AppProcess:
        variables = {"OMP_NUM_THREADS": "1", **os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                entrypoint(self.app, self.port), cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.wait(self._answers, PATIENCE, "the app does not answer")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def post(self, path: str, state: dict[str, Any] | None = None, **more: Any) -> requests.Response:
        return requests.post(f"{self.url}/{path}", json={"state": state or {}, "context": {}, **more}, timeout=600)

    def status(self) -> str:
        return str(self.post("train_status").json()["status"])

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)

    def wait_for_end(self, seconds: float = PATIENCE) -> None:
        self.wait(lambda: not self.alive(), seconds, "the app did not end")

    def wait(self, condition: Any, seconds: float, problem: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"{problem}; its log ends with:\n{self.log()[-6000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        assert self.alive(), f"the app ended at once:\n{self.log()[-6000:]}"
        try:
            return requests.post(f"{self.url}/train_status", json={"state": {}, "context": {}}, timeout=5).ok
        except requests.RequestException:
            return False
