"""What a person does on a page of an app: cards, fields, drop-downs, buttons."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

# Vue's warnings about the SDK's own HTML and scripts: a text where its button declares a function, `.native` on a <div>.
OF_THE_SDK = ("checkExistingTaskCb", "The .native modifier")
TIMEOUT = 200_000.0  # ms; machines that test are busy


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium.

    Raises:
        RuntimeError: it is not installed.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("Chromium is missing, in which the pages are tested: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root, as in containers
        yield browser
        browser.close()


class AppPage:
    """A tab with an app's page. `complaints`: errors of scripts, warnings of Vue, and files that are missing."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda answer: self.complaints.append(answer.url) if answer.status == 404 else None)
        self.page.goto(address)
        self.wait_until_connected()

    def reload(self) -> None:
        self.page.reload()
        self.wait_until_connected()

    def wait_until_connected(self) -> None:
        expect(self.page.locator(".session-connected")).to_be_visible(timeout=TIMEOUT)

    def card(self, title: str) -> Locator:
        heading = self.page.get_by_role("heading", name=title, exact=True)
        return self.page.locator(".card").filter(has=heading).last

    def press(self, where: Locator, button: str) -> None:
        where.locator("button", has_text=exactly(button)).click()

    def choose(self, where: Locator, option: str) -> None:
        """Of the drop-down `where`, or the first one in it."""
        where.locator("input").first.click()
        self.page.locator(".el-select-dropdown:visible .el-select-dropdown__item").filter(has_text=exactly(option)).click()

    def tab(self, where: Locator, title: str) -> None:
        where.locator(".el-tabs__item", has_text=title).click()

    def field(self, where: Locator, title: str) -> Locator:
        """The innermost field of this title."""
        return where.locator(".field").filter(has=self.page.locator(".field-title", has_text=exactly(title))).last

    def write_yaml(self, where: Locator, text: str) -> None:
        """Puts a text into the editor, and leaves it."""
        editor = where.locator(".CodeMirror")
        editor.evaluate("(element, text) => { element.CodeMirror.focus(); element.CodeMirror.setValue(text) }", text)
        editor.evaluate("element => element.CodeMirror.getInputField().blur()")

    def says(self, where: Locator, text: str) -> None:
        expect(where).to_contain_text(text, timeout=TIMEOUT)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.text.startswith("[Vue warn]") and not any(words in message.text for words in OF_THE_SDK):
            self.complaints.append(message.text)


def exactly(text: str) -> re.Pattern[str]:
    return re.compile(rf"^\s*{re.escape(text)}\s*$")
