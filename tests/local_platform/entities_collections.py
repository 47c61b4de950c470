"""Collections of images: the training app keeps its splits in them."""

from __future__ import annotations

from typing import Any

from .call import Call, Method, Refusal
from .paging import page
from .store import Row


def collection_json(call: Call, collection: Row) -> dict[str, Any]:
    project = call.store.projects.get(collection["projectId"])
    shown = {key: value for key, value in collection.items() if key != "items"}
    return {**shown, "teamId": call.store.workspaces.get(project["workspaceId"])["teamId"], "options": {}, "meta": {}}


def list_collections(call: Call) -> dict[str, Any]:
    rows = call.store.collections.of(call.store.projects.get(call["projectId"])["id"])
    if call.get("type", "all") != "all":
        rows = [row for row in rows if row["type"] == call.get("type")]
    return page(call, rows, lambda row: collection_json(call, row))


def add_collection(call: Call) -> dict[str, Any]:
    project = call.store.projects.get(call["projectId"])
    if any(row["name"] == call["name"] for row in call.store.collections.of(project["id"])):
        raise Refusal(400, f"the collection {call['name']!r} exists already in project {project['id']}")
    collection = call.store.collections.add(
        projectId=project["id"],
        name=call["name"],
        description=call.get("description"),
        type=call.get("type", "default"),
        items=[],
    )
    return collection_json(call, collection)


def edit_collection(call: Call) -> dict[str, Any]:
    changes = {key: call.body[key] for key in ("name", "description") if key in call.body}
    return collection_json(call, call.store.collections.change(call.store.collections.get(call["id"]), **changes))


def remove_collection(call: Call) -> dict[str, Any]:
    call.store.collections.remove([call.store.collections.get(call["id"])])
    return {"success": True}


def add_items(call: Call) -> dict[str, Any]:
    collection = call.store.collections.get(call["collectionId"])
    wanted = call.get("entityIds") or [item["entityId"] for item in call.get("entityItems") or []]
    missing = [image_id for image_id in wanted if call.store.images.find(image_id) is None]
    added = [image_id for image_id in wanted if image_id not in missing]
    call.store.collections.change(collection, items=list(dict.fromkeys([*collection["items"], *added])))
    return {"items": [{"id": image_id, "entityId": image_id} for image_id in added], "missing": missing}


def remove_items(call: Call) -> dict[str, Any]:
    collection = call.store.collections.get(call["collectionId"])
    gone = [image_id for image_id in call["entityIds"] if image_id in collection["items"]]
    call.store.collections.change(collection, items=[item for item in collection["items"] if item not in gone])
    missing = [image_id for image_id in call["entityIds"] if image_id not in gone]
    return {"items": [{"id": image_id, "entityId": image_id} for image_id in gone], "missing": missing}


METHODS: dict[str, Method] = {
    "entities-collections.list": list_collections,
    "entities-collections.info": lambda call: collection_json(call, call.store.collections.get(call["id"])),
    "entities-collections.add": add_collection,
    "entities-collections.editInfo": edit_collection,
    "entities-collections.remove": remove_collection,
    "entities-collections.items.bulk.add": add_items,
    "entities-collections.items.bulk.remove": remove_items,
}
