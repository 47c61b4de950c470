"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# the platform's SDK imports, by name, every module on the stack that imports it; in a worker of pytest-xdist the outermost one
# has a name that is no module
sys.modules.setdefault("__channelexec__", sys.modules["__main__"])

# files that take minutes, the longest first: begun last, they would leave the other processes idle at the end
SLOW = (
    *("test_train_app.py", "test_pages.py", "test_train_app_sessions.py", "test_golden_adaptation.py"),
    *(
        "test_distributed.py",
        "test_serve_app.py",
        "test_serve_clients.py",
        "test_app.py",
        "test_runs.py",
        "test_train_app_parts.py",
        "test_serve_deploy.py",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real photos and weights, for tests marked `data`: $HRDA_DATA, or shared/data beside the checkout."""
    path = Path(os.environ.get("HRDA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.fail(f"no data in {path}: set HRDA_DATA to the directory that holds weights/, cracks_real/ and so on")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the processes that they start, remember nothing in the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
