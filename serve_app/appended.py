"""Predictions that are added to an image's objects: what is there already is not added again."""

from __future__ import annotations

import hashlib
from typing import Any

import supervisely as sly

from serve_app.errors import RequestError
from serve_app.labels import CONFIDENCE, UNCERTAIN

OURS = (CONFIDENCE, UNCERTAIN)


def name_tags(predictions: list[Any], api: sly.Api, context: dict[str, Any], project_id: int, suffix: str = "_nn") -> None:
    """Gives our tags other names where the project they go to has tags of theirs with values of another type.

    The SDK would do so for the tags of images only, and fail at the second batch.

    Raises:
        RequestError: the other name is taken as well.
    """
    metas = context.setdefault("project_meta", {})
    if metas.get(project_id) is None:
        metas[project_id] = sly.ProjectMeta.from_json(api.project.get_meta(project_id, with_settings=True))
    there = metas[project_id]
    names: dict[str, sly.TagMeta] = {}
    for ours in OURS:
        free = [name for name in (ours.name, ours.name + suffix) if _is_ours(there.get_tag_meta(name), True)]
        if not free:
            raise RequestError(
                f"the project has tags {ours.name!r} and {ours.name + suffix!r} with values that are no numbers: rename one, or "
                f"give another model_prediction_suffix"
            )
        if free[0] != ours.name:
            names[ours.name] = there.get_tag_meta(free[0]) or ours.clone(name=free[0])
    if not names:
        return

    def renamed(tags: sly.TagCollection) -> sly.TagCollection:
        return sly.TagCollection([tag.clone(meta=names.get(tag.name, tag.meta)) for tag in tags])

    for prediction in predictions:
        before = prediction.annotation
        labels = []
        for label in before.labels:
            labels.append(label.clone(tags=renamed(label.tags)))
            labels[-1].status = label.status
        prediction.annotation = before.clone(labels=labels, img_tags=renamed(before.img_tags))


def _is_ours(meta: sly.TagMeta | None, where_there_is_none: bool = False) -> bool:
    return where_there_is_none if meta is None else meta.value_type == sly.TagValueType.ANY_NUMBER


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
            stale = {UNCERTAIN.name, UNCERTAIN.name + suffix}
            old = [t for t in before.img_tags if t.name not in fresh and not (t.name in stale and _is_ours(t.meta))]
            known[prediction.image_id] = before.clone(img_tags=sly.TagCollection(old))


def _shape(label: sly.Label) -> str:
    """Equal for equal pixels."""
    geometry = label.geometry
    if isinstance(geometry, sly.Bitmap | sly.AlphaMask):
        pixels = geometry.data
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return f"{type(geometry).__name__},{geometry.origin.row},{geometry.origin.col},{pixels.shape},{digest}"
    return str(geometry.to_json().get("points"))
