"""`make app`: what a person without an account finds on the first page, and that Ctrl-C leaves nothing behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
from playwright.sync_api import Page, expect

from tests.browser.clicks import TIMEOUT, chromium

ROOT = Path(__file__).parents[2]
LOG_IS_THERE = """async id => (await window.slyPlatform.api.post('tasks.log.download', { id })).data
    .some(({ message }) => message.startsWith('Application is running'))"""


def test_the_first_page_leads_to_both_apps_and_ctrl_c_ends_them(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.browser.app", "--port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background ignore Ctrl-C
        )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    ready = next((line for line in lines if line.startswith("Ready: ")), "")
    try:
        assert ready, said.read_text()
        with chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(TIMEOUT)
            page.goto(ready.split()[1])
            expect(page.get_by_text("Photos without labels").last).to_be_visible(timeout=TIMEOUT)
            other = page.request.post(
                f"{page.url}public/api/v3/tasks.run.app",
                headers={"x-api-key": "local-platform-token"},
                data={"workspaceId": 2, "moduleId": module(page, "Tensorboard Experiments Viewer")},
            )
            assert other.status == 501 and "is an app of the platform, which is not here" in other.text()
            page.get_by_role("link", name="Serve HRDA").click()
            expect(page.get_by_role("heading", name="Select Model")).to_be_visible(timeout=TIMEOUT)
            session = page.get_by_text(re.compile(r"^session \d+$")).first.inner_text()
            page.wait_for_function(LOG_IS_THERE, arg=int(session.split()[1]), timeout=TIMEOUT)
            page.go_back()
            page.get_by_role("link", name="Train HRDA").click()
            expect(page.get_by_role("heading", name="Source and target")).to_be_visible(timeout=TIMEOUT)
            apps = psutil.Process(process.pid).children(recursive=True)
            assert len([app for app in apps if "uvicorn" in app.cmdline()]) == 2
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, said.read_text()
    finally:
        process.kill()
    assert [app for app in apps if app.is_running() and app.status() != psutil.STATUS_ZOMBIE] == []


def module(page: Page, name: str) -> int:
    address, headers = f"{page.url}public/api/v3/ecosystem.list", {"x-api-key": "local-platform-token"}
    modules = page.request.post(address, headers=headers, data={}).json()["entities"]
    return next(int(entry["id"]) for entry in modules if entry["name"] == name)


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tests.browser.app", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert f"error: port {port} cannot be used (Address already in use): take another one" in done.stderr
