"""Tasks: the sessions of apps, what they show, put out and are told."""

from __future__ import annotations

import uuid
from typing import Any

import jsonpatch
from starlette.concurrency import run_in_threadpool

from .call import Call, Method, Refusal
from .paging import page
from .store import Row, Store, now

HIDDEN = ("appUrl", "data", "state", "fields", "logs", "workflow")  # not part of tasks.info


def new_task(store: Store, workspace_id: int, name: str, app_url: str | None, module_id: int | None, params: Any) -> Row:
    token = uuid.uuid4().hex
    return store.tasks.add(
        workspaceId=workspace_id,
        type="app_v2",
        status="started",
        description="",
        startedAt=now(),
        finishedAt=None,
        createdBy=1,
        agentId=1,
        moduleId=module_id,
        settings={},
        meta={
            "app": {"id": module_id, "moduleId": module_id, "name": name, "version": "v1.0.0"},
            "name": name,
            "sessionToken": token,
            "params": params or {"state": {}},
            "output": {},
        },
        appUrl=app_url,
        data={},
        state={},
        fields={},
        logs=[],
        workflow=[],
    )


def task_json(call: Call, task: Row) -> dict[str, Any]:
    shown = {key: value for key, value in task.items() if key not in HIDDEN}
    return {**shown, "teamId": call.store.workspaces.get(task["workspaceId"])["teamId"]}


def list_tasks(call: Call) -> dict[str, Any]:
    return page(call, call.store.tasks.of(call["workspaceId"]), lambda task: task_json(call, task))


async def run_app(call: Call) -> list[dict[str, Any]]:
    """Start an app as `api.nn.deploy` asks for it. `platform.launcher` knows how; it may call the platform meanwhile."""
    launcher, store = call.platform.launcher, call.store
    if launcher is None:
        raise Refusal(501, "tasks.run.app: give LocalPlatform.launcher a function that starts an app and returns its address")

    def start() -> dict[str, Any]:
        with store.lock:
            module = store.modules.get(call.get("moduleId") or call.get("appId"))
            name = call.get("taskName") or module["name"]
            task = new_task(store, call["workspaceId"], name, None, module["id"], call.get("params"))
            store.tasks.change(task, description=call.get("description", ""))
            shown = task_json(call, task)
        address = launcher(shown)
        with store.lock:
            store.tasks.change(task, appUrl=address)
            store.commit()
        return shown

    task = await run_in_threadpool(start)
    return [{"taskId": task["id"], **task}]


def set_status(call: Call) -> dict[str, Any]:
    task = call.store.tasks.get(call["id"])
    finished = now() if call["status"] in ("finished", "error", "stopped") else task["finishedAt"]
    return task_json(call, call.store.tasks.change(task, status=call["status"], finishedAt=finished))


def stop(call: Call) -> dict[str, Any]:
    task = call.store.tasks.change(call.store.tasks.get(call["id"]), status="stopped", finishedAt=now())
    return {"status": task["status"]}


def update_meta(call: Call) -> dict[str, Any]:
    task = call.store.tasks.get(call["id"])
    added = {key: value for key, value in call.body.items() if key != "id"}
    return task_json(call, call.store.tasks.change(task, meta={**task["meta"], **added}))


def set_output(call: Call) -> dict[str, Any]:
    task = call.store.tasks.get(call["taskId"])
    output = {**task["meta"]["output"], **call["output"]}
    return task_json(call, call.store.tasks.change(task, meta={**task["meta"], "output": output}))


def set_fields(call: Call) -> dict[str, Any]:
    """Values by dotted path, in the store that apps keep beside their data."""
    task = call.store.tasks.get(call["taskId"])
    for item in call["fields"]:
        *path, last = item["field"].split(".")
        place = task["fields"]
        for key in path:
            place = place.setdefault(key, {})
        old = place.get(last)
        if item.get("append") and isinstance(old, list):
            place[last] = old + (item["payload"] if isinstance(item["payload"], list) else [item["payload"]])
        elif item.get("append") and isinstance(old, dict):
            place[last] = {**old, **item["payload"]}
        else:
            place[last] = item["payload"]
    call.store.tasks.change(task)
    return {"success": True}


def get_fields(call: Call) -> dict[str, Any]:
    task = call.store.tasks.get(call["taskId"])
    result = {}
    for field in call["fields"]:
        value: Any = task["fields"]
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        result[field] = value
    return {"result": result}


def set_app_content(call: Call) -> dict[str, Any]:
    """What an app shows: a JSON patch of its data, and its whole state."""
    task = call.store.tasks.get(call["taskId"])
    payload = call["payload"]
    try:
        data = jsonpatch.apply_patch(task["data"], payload.get("data", []))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise Refusal(400, f"the patch does not fit the data of task {task['id']}: {error}") from error
    call.store.tasks.change(task, data=data, state=payload.get("state", task["state"]))
    return {"success": True}


def add_logs(call: Call) -> dict[str, Any]:
    task = call.store.tasks.get(call.task_id or call["taskId"])
    call.store.tasks.change(task, logs=[*task["logs"], *call["logs"]])
    return {"success": True}


def add_workflow_input(call: Call) -> dict[str, Any]:
    return _add_edge(call, "input")


def add_workflow_output(call: Call) -> dict[str, Any]:
    return _add_edge(call, "output")


def _add_edge(call: Call, direction: str) -> dict[str, Any]:
    task = call.store.tasks.get(call["node"]["id"])
    edge = {"direction": direction, "type": call["type"], "id": call.get("id"), "meta": call.get("meta", {})}
    call.store.tasks.change(task, workflow=[*task["workflow"], edge])
    return edge


METHODS: dict[str, Method] = {
    "tasks.list": list_tasks,
    "tasks.info": lambda call: task_json(call, call.store.tasks.get(call["id"])),
    "tasks.run.app": run_app,
    "tasks.status.update": set_status,
    "tasks.stop": stop,
    "tasks.meta.update": update_meta,
    "tasks.output.set": set_output,
    "tasks.data.set": set_fields,
    "tasks.data.get": get_fields,
    "tasks.app-v2.data.set": set_app_content,
    "tasks.logs.add": add_logs,
    "tasks.log.download": lambda call: call.store.tasks.get(call["id"])["logs"],
    "workflow.node.add-input": add_workflow_input,
    "workflow.node.add-output": add_workflow_output,
}
