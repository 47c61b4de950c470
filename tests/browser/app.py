"""`python -m tests.browser.app`: the local platform, demo projects and both apps, to click through; until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import requests

from tests.app_process import AppProcess
from tests.browser.demo_projects import DemoProjects, add_demo_projects
from tests.browser.libraries import install
from tests.browser.pages import add_pages
from tests.local_platform import LocalPlatform
from tests.local_platform.call import Refusal

LOG_LINES = 300  # of an app, for its page


class OneApp(AppProcess):
    """Either of the two."""

    def _answers(self) -> bool:
        assert self.alive(), f"the app ended at once:\n{self.log()[-6000:]}"
        try:
            return requests.get(f"{self.url}/", params={"ping": True}, timeout=5).ok
        except requests.RequestException:
            return False


class LocalApps:
    """The apps that run; the platform starts more of them when somebody asks it to."""

    def __init__(self, platform: LocalPlatform) -> None:
        self.platform = platform
        self.projects: DemoProjects | None = None
        self.processes: list[AppProcess] = []
        self._told: dict[int, int] = {}  # by task, how much of its log the platform knows
        platform.launcher = self.launch

    def launch(self, task: dict[str, Any]) -> str:
        """Starts the app of a task -> its address."""
        app = self._process(task["meta"]["name"], task["id"])
        self.processes.append(app)
        return app.__enter__().url

    def start(self, name: str) -> AppProcess:
        app = self._process(name, None)
        self.processes.append(app)
        return app.__enter__()

    def close(self) -> None:
        """Ends the apps and all that they started: trainings too."""
        ours = psutil.Process().children(recursive=True)
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(ours, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)

    def watch(self) -> None:
        """Tells the platform what the apps wrote, and which have ended."""
        for app in self.processes:
            self._tell_log(app)
            if not app.alive() and self.platform.task(app.task_id)["appUrl"]:
                self.platform.end_task(app.task_id)

    def _tell_log(self, app: AppProcess) -> None:
        size = app.log_file.stat().st_size if app.log_file.is_file() else 0
        if size != self._told.get(app.task_id, 0):
            self._told[app.task_id] = size
            logs = [{"message": message(line)} for line in app.log().splitlines()[-LOG_LINES:]]
            store = self.platform.store
            with store.lock:
                store.tasks.change(store.tasks.get(app.task_id), logs=logs)
                store.commit()

    def _process(self, name: str, task_id: int | None) -> AppProcess:
        if name not in ("Train HRDA", "Serve HRDA"):
            raise Refusal(501, f"{name} is an app of the platform, which is not here")
        if name == "Serve HRDA":
            return OneApp(self.platform, "serve_app", name, None, task_id)
        assert self.projects is not None
        return OneApp(self.platform, "train_app", "Train HRDA", self.projects.synthetic, task_id)


def message(line: str) -> str:
    """Of a line of a log: the SDK writes JSON, others do not."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.app", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    port = parser.parse_args().port
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    install()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            run(stack, port)
    except KeyboardInterrupt:
        print("\nEverything has ended.", flush=True)


def run(stack: contextlib.ExitStack, port: int) -> None:
    """Until Ctrl-C; then everything is forgotten."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hrda-app-")))
    try:
        platform = stack.enter_context(LocalPlatform(directory / "platform", port=port, pages=add_pages))
    except OSError as error:
        sys.exit(f"error: port {port} cannot be used ({error.strerror}): take another one, as in `make app PORT=8091`")
    apps = LocalApps(platform)
    stack.callback(apps.close)
    print("Making demo projects, starting Train HRDA and Serve HRDA ...", flush=True)
    serve = threading.Thread(target=apps.start, args=("Serve HRDA",))
    serve.start()
    apps.projects = add_demo_projects(platform, directory / "images")
    apps.start("Train HRDA")
    serve.join()
    if not all(app.alive() for app in apps.processes) or len(apps.processes) < 2:
        sys.exit("error: an app did not start; what it said is above")
    print(f"\nReady: http://localhost:{platform.port}   (Ctrl-C ends everything)", flush=True)
    while True:
        time.sleep(1)
        apps.watch()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
