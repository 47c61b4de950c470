"""The SDK's page becomes one that needs nothing from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import supervisely

from tests.browser.clicks import chromium
from tests.browser.libraries import SHELL, local_page

FOLDER = Path(supervisely.__path__[0]) / "app" / "fastapi"
JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER), variable_start_string="{{{", variable_end_string="}}}", autoescape=True
)
PAGE = JINJA.get_template("index.html").render(
    __favicon__="https://cdn.example/favicon.ico", __no_html_mode__=True, __widget_scripts__={}, js_bundle_version="1"
)


def test_the_page_loads_the_shell() -> None:
    page = local_page(PAGE)
    assert '<script type="module" src="/shell/main.js"></script>' in page
    assert "sly-app-bundle" not in page and "socket.io" not in page


def test_a_page_of_another_sdk_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"0 matches of .*SlyApp"):
        local_page(PAGE.replace("SlyApp.js", "Other.js"))
    with pytest.raises(RuntimeError, match="loads from elsewhere: <script src='//cdn"):
        local_page(PAGE.replace("</body>", "<script src='//cdn.example/x.js'></script></body>"))


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((SHELL / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages and all("resolved" not in entry and entry["integrity"] for entry in packages.values())


def test_a_machine_without_chromium_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install chromium"), chromium():
        pass
