"""Figures: the labels of images one by one, and the geometries that travel apart (alpha masks)."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.datastructures import UploadFile
from starlette.responses import Response
from supervisely.geometry.helpers import deserialize_geometry

from .call import Call, Method, Refusal
from .images import new_tag
from .multipart import multipart
from .paging import page
from .store import Row, Store

# what a label's JSON says besides its geometry
# fmt: off
LABEL_KEYS = frozenset((
    "id", "classId", "classTitle", "description", "tags", "instance", "geometryType", "shape", "geometry",
    "smartToolInput", "nnCreated", "nnUpdated", "labelerLogin", "createdAt", "updatedAt", "objectId", "entityId",
    "imageId", "priority", "customData", "meta", "status", "trackId",
))
# fmt: on


def new_figure(store: Store, image: Row, label: dict[str, Any]) -> dict[str, Any]:
    """A row for a label of an image: the class by id or name, the geometry stored as it came."""
    meta = store.projects.get(image["projectId"])["meta"]
    kind = label.get("geometryType") or label.get("shape")
    geometry = label["geometry"] if isinstance(label.get("geometry"), dict) else label
    geometry = {key: value for key, value in geometry.items() if key not in LABEL_KEYS}
    return {
        "imageId": image["id"],
        "datasetId": image["datasetId"],
        "projectId": image["projectId"],
        "classId": _class_id(meta["classes"], label, kind),
        "geometryType": kind,
        "geometry": geometry,
        "description": label.get("description") or "",
        "tags": _tags(store, meta["tags"], label.get("tags") or []),
        "instance": label.get("instance"),
        "nnCreated": bool(label.get("nnCreated")),
        "nnUpdated": bool(label.get("nnUpdated")),
        "priority": label.get("priority"),
        "customData": label.get("customData") or {},
        "meta": label.get("meta") or {},
        **_extent(kind, geometry),
    }


def _class_id(classes: list[Row], label: dict[str, Any], kind: str | None) -> int:
    for item in classes:
        if item["id"] == label.get("classId") or item["title"] == label.get("classTitle"):
            if item["shape"] not in (kind, "any"):
                raise Refusal(400, f"the class {item['title']!r} has the shape {item['shape']!r}, the label {kind!r}")
            return int(item["id"])
    raise Refusal(400, f"the class {label.get('classTitle') or label.get('classId')!r} is not in the project")


def _tags(store: Store, known: list[Row], tags: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {tag["name"]: tag["id"] for tag in known}
    unknown = [tag.get("name") for tag in tags if tag.get("tagId") is None and tag.get("name") not in ids]
    if unknown:
        raise Refusal(400, f"the tags {unknown} are not in the project")
    return [new_tag(store, tag["tagId"] if tag.get("tagId") is not None else ids[tag["name"]], tag.get("value")) for tag in tags]


def _extent(kind: str | None, geometry: dict[str, Any]) -> dict[str, Any]:
    """Area and box of a geometry; none yet for an alpha mask whose pixels come later."""
    if not geometry:
        return {"area": None, "geometryMeta": None}
    try:
        shape = deserialize_geometry(kind, geometry)
        box = shape.to_bbox()
        return {"area": str(shape.area), "geometryMeta": {"bbox": [box.top, box.left, box.bottom, box.right]}}
    except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise Refusal(400, f"not a geometry of type {kind!r}: {error!r}") from error


def figure_tags(store: Store, figure: Row) -> list[dict[str, Any]]:
    names = {tag["id"]: tag["name"] for tag in store.projects.get(figure["projectId"])["meta"]["tags"]}
    return [{**tag, "name": names[tag["tagId"]]} for tag in figure["tags"] if tag["tagId"] in names]


def figure_json(call: Call, figure: Row, integer_coordinates: bool) -> dict[str, Any]:
    geometry = None if figure["geometryType"] == "alpha_mask" else figure["geometry"]
    if geometry and integer_coordinates:
        geometry = _floored(geometry)
    return {
        **figure,
        "entityId": figure["imageId"],
        "objectId": None,
        "geometry": geometry,
        "tags": figure_tags(call.store, figure),
    }


def _floored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floored(item) for item in value]
    return math.floor(value) if isinstance(value, float) else value


def list_figures(call: Call) -> dict[str, Any]:
    store = call.store
    if call.get("filters"):
        raise Refusal(501, "figures.list: `filters` (by tags, annotator and so on) are not implemented, `filter` is")
    images = store.images.of(store.datasets.get(call["datasetId"])["id"])
    rows = [{**figure, "entityId": image["id"]} for image in images for figure in store.figures.of(image["id"])]
    fields = call.get("fields")
    integer = call.get("integerCoords", True)

    def shown(figure: Row) -> dict[str, Any]:
        full = figure_json(call, figure, integer)
        return {key: value for key, value in full.items() if key in ("id", "entityId", *fields)} if fields else full

    return page(call, rows, shown)


def add_figures(call: Call) -> list[dict[str, int]]:
    store = call.store
    rows = []
    for label in call["figures"]:
        image_id = label.get("entityId") or call.get("entityId")
        rows.append(new_figure(store, store.images.get(image_id), label))
    _touch(store, rows)
    return [{"id": store.figures.add(**row)["id"]} for row in rows]


def edit_figure(call: Call) -> dict[str, Any]:
    figure = call.store.figures.get(call["id"])
    geometry = {key: value for key, value in call.get("geometry", figure["geometry"]).items() if key not in LABEL_KEYS}
    meta = call.store.projects.get(figure["projectId"])["meta"]
    changes = {key: call.body[key] for key in ("nnCreated", "nnUpdated", "priority", "meta") if call.body.get(key) is not None}
    if "tags" in call.body:
        changes["tags"] = _tags(call.store, meta["tags"], call.body["tags"])
    call.store.figures.change(figure, geometry=geometry, **_extent(figure["geometryType"], geometry), **changes)
    _touch(call.store, [figure])
    return figure_json(call, figure, integer_coordinates=False)


def remove_figures(call: Call) -> dict[str, Any]:
    figures = [call.store.figures.get(figure_id) for figure_id in call["figureIds"]]
    call.store.figures.remove(figures)
    _touch(call.store, figures)
    return {"success": True}


def _touch(store: Store, figures: list[dict[str, Any]]) -> None:
    for image_id in {figure["imageId"] for figure in figures}:
        store.touch(store.images.get(image_id))


def upload_geometries(call: Call) -> dict[str, Any]:
    """Pairs of parts: `figureId`, then `geometry` with the JSON."""
    figure: Row | None = None
    for name, part in call.form:
        if name == "figureId":
            figure = call.store.figures.get(part)
        elif name == "geometry" and figure is not None and isinstance(part, UploadFile):
            geometry = {"bitmap": json.loads(part.file.read())}
            call.store.figures.change(figure, geometry=geometry, **_extent(figure["geometryType"], geometry))
            _touch(call.store, [figure])
    return {"success": True}


def download_geometries(call: Call) -> Response:
    figures = [call.store.figures.get(figure_id) for figure_id in call["ids"]]
    parts = [(str(f["id"]), f["geometry"].get("bitmap", f["geometry"])) for f in figures if f["geometry"]]
    return multipart((name, json.dumps(geometry).encode()) for name, geometry in parts)


def add_tags(call: Call) -> list[dict[str, Any]]:
    return [_add_tag(call.store, item["figureId"], item["tagId"], item.get("value")) for item in call["tags"]]


def add_tag(call: Call) -> dict[str, Any]:
    return _add_tag(call.store, call["figureId"], call["tagId"], call.get("value"))


def _add_tag(store: Store, figure_id: int, tag_id: int, value: Any) -> dict[str, Any]:
    figure = store.figures.get(figure_id)
    tag = new_tag(store, tag_id, value)
    store.figures.change(figure, tags=[*figure["tags"], tag])
    _touch(store, [figure])
    return tag


def remove_tag(call: Call) -> dict[str, Any]:
    figure = call.store.figures.get(call["figureId"])
    call.store.figures.change(figure, tags=[tag for tag in figure["tags"] if tag["id"] != call["id"]])
    _touch(call.store, [figure])
    return {"success": True}


METHODS: dict[str, Method] = {
    "figures.list": list_figures,
    "figures.info": lambda call: figure_json(call, call.store.figures.get(call["id"]), integer_coordinates=False),
    "figures.bulk.add": add_figures,
    "figures.editInfo": edit_figure,
    "figures.bulk.remove": remove_figures,
    "figures.bulk.upload.geometry": upload_geometries,
    "figures.bulk.download.geometry": download_geometries,
    "figures.tags.list": lambda call: figure_tags(call.store, call.store.figures.get(call["id"])),
    "figures.tags.bulk.add": add_tags,
    "object-tags.add-to-object": add_tag,
    "object-tags.remove-from-figure": remove_tag,
}
