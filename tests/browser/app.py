"""`python -m tests.browser.app`: the local platform, demo projects and both apps, to click through; until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import requests

from tests.app_process import AppProcess
from tests.browser.demo_projects import DemoProjects, add_demo_projects
from tests.browser.libraries import install
from tests.browser.pages import add_pages
from tests.local_platform import LocalPlatform


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
        for app in self.processes:
            app.kill(signal.SIGTERM)

    def watch(self) -> None:
        """Tells the platform which apps have ended."""
        for app in self.processes:
            if not app.alive() and self.platform.task(app.task_id)["appUrl"]:
                self.platform.end_task(app.task_id)

    def _process(self, name: str, task_id: int | None) -> AppProcess:
        if name == "Serve HRDA":
            return OneApp(self.platform, "serve_app", name, None, task_id)
        assert self.projects is not None
        return OneApp(self.platform, "train_app", "Train HRDA", self.projects.synthetic, task_id)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.app", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--directory", type=Path, help="where everything is kept; without it, all is forgotten at the end")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    install()
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        directory = arguments.directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hrda-app-")))
        platform = stack.enter_context(LocalPlatform(directory / "platform", port=arguments.port, pages=add_pages))
        apps = LocalApps(platform)
        stack.callback(apps.close)
        print("Making demo projects, starting Train HRDA and Serve HRDA ...", flush=True)
        serve = threading.Thread(target=apps.start, args=("Serve HRDA",))
        serve.start()
        apps.projects = add_demo_projects(platform, directory / "images")
        apps.start("Train HRDA")
        serve.join()
        print(f"\nReady: http://localhost:{platform.port}   (Ctrl-C ends everything)", flush=True)
        while True:
            time.sleep(1)
            apps.watch()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
