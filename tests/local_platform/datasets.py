"""Data sets, which may lie inside each other."""

from __future__ import annotations

from typing import Any

from .call import Call, Method, Refusal
from .images import image_url, remove_images
from .paging import page
from .store import Row, Store


def project_datasets(store: Store, project_id: int) -> list[Row]:
    return store.datasets.of(store.projects.get(project_id)["id"])


def dataset_images(store: Store, datasets: list[Row]) -> list[Row]:
    return [image for dataset in datasets for image in store.images.of(dataset["id"])]


def nested(store: Store, dataset: Row) -> list[Row]:
    """The data set and everything below it."""
    children = [row for row in store.datasets.of(dataset["projectId"]) if row["parentId"] == dataset["id"]]
    return [dataset] + [row for child in children for row in nested(store, child)]


def dataset_json(call: Call, dataset: Row, custom_data: bool) -> dict[str, Any]:
    store = call.store
    images = store.images.of(dataset["id"])
    project = store.projects.get(dataset["projectId"])
    shown = {key: value for key, value in dataset.items() if key != "customData"}
    if custom_data and dataset["customData"]:  # a dict makes the SDK's DatasetInfo unhashable, so only where there is one
        shown["customData"] = dataset["customData"]
    return {
        **shown,
        "workspaceId": project["workspaceId"],
        "teamId": store.workspaces.get(project["workspaceId"])["teamId"],
        "size": str(sum(image["size"] or 0 for image in images)),
        "imagesCount": len(images),
        "itemsCount": len(images),
        "referenceImageUrl": image_url(call, images[0]) if images else f"{call.platform.address}/image-storage/none",
    }


def list_datasets(call: Call) -> dict[str, Any]:
    """All of a project with `recursive`, else those of one level: the top, or below the parent that the filter names."""
    rows = project_datasets(call.store, call["projectId"])
    by_parent = any(condition["field"] == "parentId" for condition in call.get("filter") or [])
    if call.get("parentId") is not None:
        rows = [row for row in rows if row["parentId"] == call["parentId"]]
    elif not call.get("recursive") and not by_parent:
        rows = [row for row in rows if row["parentId"] is None]
    custom_data = "customData" in (call.get("extraFields") or [])
    return page(call, rows, lambda dataset: dataset_json(call, dataset, custom_data))


def list_all_datasets(call: Call) -> dict[str, Any]:
    return page(call, call.store.datasets.all(), lambda dataset: dataset_json(call, dataset, custom_data=False))


def add_dataset(call: Call) -> dict[str, Any]:
    store = call.store
    siblings = [row for row in project_datasets(store, call["projectId"]) if row["parentId"] == call.get("parentId")]
    if any(row["name"] == call["name"] for row in siblings):
        raise Refusal(400, f"the data set {call['name']!r} exists already in project {call['projectId']}")
    if call.get("parentId") is not None and store.datasets.get(call["parentId"])["projectId"] != call["projectId"]:
        raise Refusal(400, f"the parent {call['parentId']} is in another project")
    dataset = store.datasets.add(
        name=call["name"],
        description=call.get("description", ""),
        projectId=call["projectId"],
        parentId=call.get("parentId"),
        customData=call.get("customData"),
        createdBy=1,
    )
    return dataset_json(call, dataset, custom_data=True)


def edit_dataset(call: Call) -> dict[str, Any]:
    changes = {key: call.body[key] for key in ("name", "description", "customData") if key in call.body}
    return dataset_json(call, call.store.datasets.change(call.store.datasets.get(call["id"]), **changes), custom_data=True)


def move_dataset(call: Call) -> dict[str, Any]:
    target = call.store.datasets.get(call["destId"])
    return call.store.datasets.change(call.store.datasets.get(call["srcId"]), parentId=target["id"])


def remove_dataset(call: Call) -> dict[str, Any]:
    for dataset in nested(call.store, call.store.datasets.get(call["id"])):
        remove_images(call.store, call.store.images.of(dataset["id"]))
        call.store.datasets.remove([dataset])
    return {"success": True}


METHODS: dict[str, Method] = {
    "datasets.list": list_datasets,
    "datasets.list.all": list_all_datasets,
    "datasets.info": lambda call: dataset_json(call, call.store.datasets.get(call["id"]), custom_data=True),
    "datasets.add": add_dataset,
    "datasets.editInfo": edit_dataset,
    "datasets.move": move_dataset,
    "datasets.archive": remove_dataset,
}
