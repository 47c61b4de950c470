"""The ecosystem: which apps exist, and which sessions of them run."""

from __future__ import annotations

from typing import Any

from .call import Call, Method
from .paging import page
from .store import Row, Store
from .tasks import task_json

# the SDK's training app asks for the viewer by name and fails on an empty list
APPS = {
    "Tensorboard Experiments Viewer": ["neural network", "visualization"],
    "Train HRDA": ["neural network", "images", "semantic segmentation", "train", "framework:HRDA"],
    "Serve HRDA": ["neural network", "images", "semantic segmentation", "serve", "framework:HRDA"],
}


def seed(store: Store) -> None:
    for name, categories in APPS.items():
        slug = f"local/{name.lower().replace(' ', '-')}"
        store.modules.add(
            name=name,
            slug=slug,
            type="app",
            repo=slug,
            repositoryModuleUrl=f"https://example.com/{slug}",
            readme="",
            config={"name": name, "type": "app", "categories": categories, "modalTemplateState": {}},
            meta={"releases": [{"version": "v1.0.0"}]},
        )


def list_modules(call: Call) -> dict[str, Any]:
    rows = call.store.modules.all()
    if call.get("search"):
        rows = [row for row in rows if call["search"].lower() in row["name"].lower()]
    wanted = set(call.get("categories") or [])
    if wanted:
        every = call.get("categoriesOperation") == "and"
        rows = [row for row in rows if (wanted <= _categories(row) if every else wanted & _categories(row))]
    return page(call, rows)


def _categories(module: Row) -> set[str]:
    return set(module["config"]["categories"])


def app_json(call: Call, module: Row) -> dict[str, Any]:
    """A module that was added to a team; here its id is the module's."""
    tasks = [task for task in call.store.tasks.all() if task["moduleId"] == module["id"]]
    return {
        **module,
        "moduleId": module["id"],
        "createdBy": 1,
        "disabled": False,
        "userLogin": "admin",
        "isShared": False,
        "teamId": call.get("teamId") or call.store.teams.all()[0]["id"],
        "tasks": [task_json(call, task) for task in tasks],
    }


def list_apps(call: Call) -> dict[str, Any]:
    return page(call, [app_json(call, module) for module in call.store.modules.all()])


def list_app_tasks(call: Call) -> dict[str, Any]:
    tasks = [task for task in call.store.tasks.all() if task["moduleId"] == call["appId"]]
    return page(call, tasks, lambda task: task_json(call, task))


METHODS: dict[str, Method] = {
    "ecosystem.list": list_modules,
    "ecosystem.info": lambda call: call.store.modules.get(call["id"]),
    "apps.list": list_apps,
    "apps.info": lambda call: app_json(call, call.store.modules.get(call["id"])),
    "apps.tasks.list": list_app_tasks,
}
