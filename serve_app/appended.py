"""Predictions that are added to an image's objects: what is there already is not added again."""

from __future__ import annotations

import hashlib
from typing import Any

import supervisely as sly


def leave_out_what_is_there(predictions: list[Any], api: sly.Api, context: dict[str, Any], suffix: str = "_nn") -> None:
    """Puts the images' annotations where the SDK looks for them, and takes equal objects out of the predictions.

    `suffix`: what the SDK adds to the name of a class where the project has one of another shape.
    """
    known = context.setdefault("annotation", {})
    metas = context.setdefault("project_meta", {})
    for dataset_id in {prediction.dataset_id for prediction in predictions}:
        those = [p for p in predictions if p.dataset_id == dataset_id]
        project_id = those[0].project_id
        if metas.get(project_id) is None:
            metas[project_id] = sly.ProjectMeta.from_json(api.project.get_meta(project_id, with_settings=True))
        for prediction in those:
            # one by one: of several at once the SDK leaves the pixels of alpha masks out, in classes of any shape
            info = api.annotation.download(prediction.image_id)
            before = sly.Annotation.from_json(info.annotation, metas[project_id])
            there = {(label.obj_class.name, _shape(label)) for label in before.labels}
            annotation = prediction.annotation
            labels = [(label, label.obj_class.name, _shape(label)) for label in annotation.labels]
            new = [label for label, name, shape in labels if not there & {(name, shape), (name + suffix, shape)}]
            prediction.annotation = annotation.clone(labels=new)
            fresh = {tag.name for tag in annotation.img_tags}
            old = [tag for tag in before.img_tags if tag.name not in fresh | {"uncertain"}]
            known[prediction.image_id] = before.clone(img_tags=sly.TagCollection(old))


def _shape(label: sly.Label) -> str:
    """Equal for equal pixels."""
    geometry = label.geometry
    if isinstance(geometry, sly.Bitmap | sly.AlphaMask):
        pixels = geometry.data
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return f"{type(geometry).__name__},{geometry.origin.row},{geometry.origin.col},{pixels.shape},{digest}"
    return str(geometry.to_json().get("points"))
