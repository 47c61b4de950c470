"""Statistics of a project: how often each class and tag occurs, and where."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from .call import Call, Method
from .store import Row, Store


def project_stats(call: Call) -> dict[str, Any]:
    store = call.store
    project = store.projects.get(call["id"])
    datasets = store.datasets.of(project["id"])
    images = [image for dataset in datasets for image in store.images.of(dataset["id"])]
    figures = [figure for image in images for figure in store.figures.of(image["id"])]
    marked = len({figure["imageId"] for figure in figures})
    classes = [{**item, "name": item["title"]} for item in project["meta"]["classes"]]
    tags = project["meta"]["tags"]
    images_with = {(figure["classId"], figure["imageId"], figure["datasetId"]) for figure in figures}
    return {
        "images": {
            "total": {"imagesInDataset": len(images), "imagesMarked": marked, "imagesNotMarked": len(images) - marked},
            "datasets": [_dataset(store, dataset) for dataset in datasets],
            "objectClasses": _counts(classes, datasets, "objectClass", [(kind, place) for kind, _, place in images_with]),
        },
        "objects": {
            "total": {"objectsInDataset": len(figures)},
            "items": _counts(classes, datasets, "objectClass", [(f["classId"], f["datasetId"]) for f in figures]),
        },
        "imageTags": {"items": _counts(tags, datasets, "tagMeta", _tagged(images))},
        "objectTags": {"items": _counts(tags, datasets, "tagMeta", _tagged(figures))},
        "datasets": {"items": [_dataset(store, dataset) for dataset in datasets]},
    }


def _dataset(store: Store, dataset: Row) -> dict[str, Any]:
    return {"id": dataset["id"], "name": dataset["name"], "imagesCount": store.images.count(dataset["id"])}


def _tagged(rows: Iterable[Row]) -> list[tuple[int, int]]:
    return [(tag["tagId"], row["datasetId"]) for row in rows for tag in row["tags"]]


def _counts(kinds: list[Row], datasets: list[Row], name: str, found: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
    """For each class or tag: itself under `name`, its total, and its count per data set; `found` are pairs of ids."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for kind_id, dataset_id in found:
        counts[kind_id][dataset_id] += 1
    return [
        {
            name: kind,
            "total": counts[kind["id"]].total(),
            "datasets": [{"id": d["id"], "name": d["name"], "count": counts[kind["id"]][d["id"]]} for d in datasets],
        }
        for kind in kinds
    ]


METHODS: dict[str, Method] = {"projects.stats": project_stats}
