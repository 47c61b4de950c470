"""Annotations of images as a whole: what the SDK uploads and downloads per image."""

from __future__ import annotations

from typing import Any

from .call import Call, Method, Refusal
from .figures import figure_tags, new_figure
from .images import image_tags, new_tag
from .paging import page
from .store import Row, Store


def annotation_json(call: Call, image: Row) -> dict[str, Any]:
    store = call.store
    classes = {item["id"]: item["title"] for item in store.projects.get(image["projectId"])["meta"]["classes"]}
    figures = store.figures.of(image["id"])
    return {
        "imageId": image["id"],
        "imageName": image["name"],
        "datasetId": image["datasetId"],
        "createdAt": image["createdAt"],
        "updatedAt": image["updatedAt"],
        "annotation": {
            "description": image["description"],
            "tags": image_tags(store, image),
            "size": {"height": image["height"], "width": image["width"]},
            "objects": [_label(store, figure, classes[figure["classId"]]) for figure in figures],
            "customBigData": {},
        },
    }


def _label(store: Store, figure: Row, class_title: str) -> dict[str, Any]:
    # the SDK fetches alpha masks apart, by figures.bulk.download.geometry
    geometry = {} if figure["geometryType"] == "alpha_mask" else figure["geometry"]
    label = {
        "id": figure["id"],
        "classId": figure["classId"],
        "objectId": None,
        "description": figure["description"],
        "geometryType": figure["geometryType"],
        "labelerLogin": "admin",
        "createdAt": figure["createdAt"],
        "updatedAt": figure["updatedAt"],
        "tags": figure_tags(store, figure),
        "nnCreated": figure["nnCreated"],
        "nnUpdated": figure["nnUpdated"],
        "classTitle": class_title,
        "priority": figure["priority"],
        **geometry,
    }
    return {**label, "instance": figure["instance"]} if figure["instance"] else label


def list_annotations(call: Call) -> dict[str, Any]:
    images = call.store.images.of(call.store.datasets.get(call["datasetId"])["id"])
    return page(call, images, lambda image: annotation_json(call, image))


def bulk_info(call: Call) -> list[dict[str, Any]]:
    return [annotation_json(call, call.store.images.get(image_id)) for image_id in call["imageIds"]]


def bulk_add(call: Call) -> dict[str, Any]:
    """Replace the annotations of the given images. All is checked before anything is stored."""
    store = call.store
    prepared = []
    for item in call["annotations"]:
        image, annotation = store.images.get(item["imageId"]), item["annotation"]
        figures = [new_figure(store, image, label) for label in annotation.get("objects", [])]
        prepared.append((image, annotation, figures, _image_tags(store, image, annotation.get("tags", []))))
    for image, annotation, figures, tags in prepared:
        store.figures.remove(store.figures.of(image["id"]))
        for figure in figures:
            store.figures.add(**figure)
        store.images.change(image, tags=tags, description=annotation.get("description") or image["description"])
        store.touch(image)
    return {"success": True}


def _image_tags(store: Store, image: Row, tags: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = {tag["name"]: tag["id"] for tag in store.projects.get(image["projectId"])["meta"]["tags"]}
    unknown = [tag["name"] for tag in tags if tag["name"] not in known]
    if unknown:
        raise Refusal(400, f"the tags {unknown} are not in project {image['projectId']}")
    return [new_tag(store, known[tag["name"]], tag.get("value")) for tag in tags]


def bulk_copy(call: Call) -> dict[str, Any]:
    """Figures and tags from images to images, perhaps of another project, by the names of classes and tags."""
    store = call.store
    for source_id, target_id in zip(call["srcImageIds"], call["destImageIds"], strict=True):
        source, target = store.images.get(source_id), store.images.get(target_id)
        old, new = (store.projects.get(image["projectId"])["meta"] for image in (source, target))
        titles = {item["id"]: item["title"] for item in old["classes"]}
        classes = {item["title"]: item["id"] for item in new["classes"]}
        for figure in store.figures.of(source["id"]):
            place = {key: target[key] for key in ("datasetId", "projectId")}
            copied = {key: value for key, value in figure.items() if key != "id"}
            store.figures.add(**{**copied, **place, "imageId": target["id"], "classId": classes[titles[figure["classId"]]]})
        store.images.change(target, tags=_image_tags(store, target, image_tags(store, source)))
        store.touch(target)
    return {"success": True}


METHODS: dict[str, Method] = {
    "annotations.list": list_annotations,
    "annotations.info": lambda call: annotation_json(call, call.store.images.get(call["imageId"])),
    "annotations.bulk.info": bulk_info,
    "annotations.bulk.add": bulk_add,
    "annotations.bulk.copy": bulk_copy,
}
