"""Projects: their classes and tags, settings and versions."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

from .call import Call, Method, Refusal
from .datasets import dataset_images, project_datasets
from .images import image_url
from .paging import page
from .store import Row, Store

SETTINGS: dict[str, Any] = {"groupImages": False, "groupImagesByTagId": None, "groupImagesSync": False}


def project_json(call: Call, project: Row) -> dict[str, Any]:
    store = call.store
    version = store.versions.find(project["versionId"])
    datasets = store.datasets.of(project["id"])
    images = [image for dataset in datasets for image in store.images.of(dataset["id"])]
    shown = {key: value for key, value in project.items() if key != "meta"}
    return {
        **shown,
        "teamId": store.workspaces.get(project["workspaceId"])["teamId"],
        "groupId": store.workspaces.get(project["workspaceId"])["teamId"],
        "size": str(sum(image["size"] or 0 for image in images)),
        "imagesCount": len(images),
        "itemsCount": len(images),
        "datasetsCount": len(datasets),
        # a string even where there is no image: the SDK calls url.replace in production
        "referenceImageUrl": image_url(call, images[0]) if images else f"{call.platform.address}/image-storage/none",
        "backupArchive": {},
        "importSettings": {},
        "version": {"id": version["id"], "version": version["version"]} if version else None,
        "embeddingsEnabled": False,
    }


def list_projects(call: Call) -> dict[str, Any]:
    store = call.store
    if call.get("workspaceId") is not None:
        rows = store.projects.of(store.workspaces.get(call["workspaceId"])["id"])
    elif call.get("groupId") is not None:
        rows = [project for workspace in store.workspaces.of(call["groupId"]) for project in store.projects.of(workspace["id"])]
    else:
        rows = store.projects.all()
    return page(call, rows, lambda project: project_json(call, project))


def add_project(call: Call) -> dict[str, Any]:
    workspace = call.store.workspaces.get(call["workspaceId"])
    if any(project["name"] == call["name"] for project in call.store.projects.of(workspace["id"])):
        raise Refusal(400, f"the project {call['name']!r} exists already in workspace {workspace['id']}")
    project = call.store.projects.add(
        name=call["name"],
        description=call.get("description", ""),
        readme=call.get("readme", ""),
        workspaceId=workspace["id"],
        type=call.get("type", "images"),
        customData=call.get("customData") or {},
        settings={**SETTINGS, **(call.get("settings") or {})},
        createdBy=1,
        versionId=None,
        meta={"classes": [], "tags": [], "projectType": call.get("type", "images")},
    )
    return project_json(call, project)


def edit_project(call: Call) -> dict[str, Any]:
    changes = {key: call.body[key] for key in ("name", "description", "readme", "customData", "type") if key in call.body}
    return project_json(call, call.store.projects.change(call.store.projects.get(call["id"]), **changes))


def move_project(call: Call) -> dict[str, Any]:
    workspace = call.store.workspaces.get(call["workspaceId"])
    return project_json(call, call.store.projects.change(call.store.projects.get(call["id"]), workspaceId=workspace["id"]))


def remove_project(call: Call) -> dict[str, Any]:
    project = call.store.projects.get(call["id"])
    for dataset in call.store.datasets.of(project["id"]):
        for image in call.store.images.of(dataset["id"]):
            call.store.figures.remove(call.store.figures.of(image["id"]))
        call.store.images.remove(call.store.images.of(dataset["id"]))
    call.store.datasets.remove(call.store.datasets.of(project["id"]))
    call.store.projects.remove([project])
    return {"success": True}


def update_settings(call: Call) -> dict[str, Any]:
    project = call.store.projects.get(call["id"])
    return project_json(call, call.store.projects.change(project, settings={**project["settings"], **call["settings"]}))


def update_meta(call: Call) -> dict[str, Any]:
    """Classes and tags as the caller wants them. Known ones (by id or name) keep their id, absent ones go with their labels."""
    store = call.store
    project = store.projects.get(call["id"])
    old, new = project["meta"], call["meta"]
    classes = _with_ids(store, old["classes"], new.get("classes", []), "title")
    tags = _with_ids(store, old["tags"], new.get("tags", []), "name")
    project_type = new.get("projectType") or old["projectType"]
    store.projects.change(project, meta={"classes": classes, "tags": tags, "projectType": project_type})
    gone = {item["id"] for item in old["classes"]} - {item["id"] for item in classes}
    if gone:
        for image in dataset_images(store, project_datasets(store, project["id"])):
            store.figures.remove(figure for figure in store.figures.of(image["id"]) if figure["classId"] in gone)
    return project["meta"]


def _with_ids(store: Store, old: list[Row], new: list[Row], name: str) -> list[Row]:
    known = {item["id"] for item in old}
    by_name = {item[name]: item["id"] for item in old}
    result = []
    for item in new:
        item_id = item["id"] if item.get("id") in known else by_name.get(item[name]) or store.next_id()
        result.append({**item, "id": item_id})
    names = Counter(item[name] for item in result)
    if len(names) != len(result):
        raise Refusal(400, f"the {name} {names.most_common(1)[0][0]!r} occurs twice in the project's meta")
    return result


def remove_class(call: Call) -> dict[str, Any]:
    return _without(call, "classes")


def remove_tag(call: Call) -> dict[str, Any]:
    return _without(call, "tags")


def _without(call: Call, kind: str) -> dict[str, Any]:
    project = call.store.projects.get(call["projectId"])
    meta = {**project["meta"], kind: [item for item in project["meta"][kind] if item["id"] != call["id"]]}
    call.body = {"id": project["id"], "meta": meta}
    return update_meta(call)


def list_classes(call: Call) -> dict[str, Any]:
    project = call.store.projects.get(call["projectId"])
    rows = [{**item, "name": item["title"], **_dated(project)} for item in project["meta"]["classes"]]
    return page(call, rows)


def list_tags(call: Call) -> dict[str, Any]:
    project = call.store.projects.get(call["projectId"])
    rows = [
        {**item, "projectId": project["id"], "settings": {"type": item.get("value_type")}, **_dated(project)}
        for item in project["meta"]["tags"]
    ]
    return page(call, rows)


def _dated(project: Row) -> dict[str, str]:
    return {"createdAt": project["createdAt"], "updatedAt": project["updatedAt"]}


def reserve_version(call: Call) -> dict[str, Any]:
    store = call.store
    project = store.projects.get(call["projectId"])
    last = store.versions.find(project["versionId"])
    if last and last["projectUpdatedAt"] == project["updatedAt"]:
        known = {"id": last["id"], "version": last["version"]}
        raise Refusal(400, "the project did not change since its last version", useExistingVersion=True, version=known)
    version = store.versions.add(
        projectId=project["id"],
        teamId=store.workspaces.get(project["workspaceId"])["teamId"],
        commitToken=uuid.uuid4().hex,
        version=store.versions.count(project["id"]) + 1,
        status="reserved",
        createdBy=1,
        teamFileId=None,
        projectUpdatedAt=None,
        name=None,
        description=None,
        previewProjectId=None,
    )
    return {"id": version["id"], "commitToken": version["commitToken"]}


def commit_version(call: Call) -> dict[str, Any]:
    store = call.store
    version = _reserved(call)
    values = {"teamFileId": store.files.get(call["teamFileId"])["id"], "projectUpdatedAt": call.get("projectUpdatedAt")}
    store.versions.change(version, status="committed", name=call.get("title"), description=call.get("description"), **values)
    project = store.projects.get(version["projectId"])
    store.projects.change(project, versionId=version["id"], updatedAt=project["updatedAt"])  # a version is no change
    return {"success": True}


def cancel_version(call: Call) -> dict[str, Any]:
    call.store.versions.remove([_reserved(call)])
    return {"success": True}


def _reserved(call: Call) -> Row:
    version = call.store.versions.get(call["id"])
    if version["commitToken"] != call["commitToken"] or version["status"] != "reserved":
        raise Refusal(400, f"version {version['id']} is not reserved under this token")
    return version


METHODS: dict[str, Method] = {
    "projects.list": list_projects,
    "projects.list.all": list_projects,
    "projects.info": lambda call: project_json(call, call.store.projects.get(call["id"])),
    "projects.add": add_project,
    "projects.editInfo": edit_project,
    "projects.workspace.set": move_project,
    "projects.archive": remove_project,
    "projects.meta": lambda call: call.store.projects.get(call["id"])["meta"],
    "projects.meta.update": update_meta,
    "projects.classes.remove": remove_class,
    "projects.tags.remove": remove_tag,
    "projects.settings.update": update_settings,
    "projects.versions.list": lambda call: page(call, call.store.versions.of(call["projectId"])),
    "projects.versions.reserve": reserve_version,
    "projects.versions.commit": commit_version,
    "projects.versions.cancel-reservation": cancel_version,
    "advanced.object_classes.list": list_classes,
    "tags.list": list_tags,
}
