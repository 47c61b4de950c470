"""Predictions that are added to an image's objects: what is there already is not added again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import supervisely as sly

from serve_app.errors import RequestError
from serve_app.labels import CONFIDENCE, UNCERTAIN

OURS = (CONFIDENCE, UNCERTAIN)
SLACK = 2  # pixels by which equal objects may differ, or
SHARE = 0.01  # of their pixels, if that is more


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
    """Puts the images' annotations where the SDK looks for them, and takes equal objects (`are_equal`) out of the predictions.

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
            annotation = prediction.annotation
            new = [label for label in annotation.labels if not _is_there(label, before.labels, suffix)]
            prediction.annotation = annotation.clone(labels=new)
            fresh = {tag.name for tag in annotation.img_tags}
            stale = {UNCERTAIN.name, UNCERTAIN.name + suffix}
            old = [t for t in before.img_tags if t.name not in fresh and not (t.name in stale and _is_ours(t.meta))]
            known[prediction.image_id] = before.clone(img_tags=sly.TagCollection(old))


def _is_there(label: sly.Label, others: Sequence[sly.Label], suffix: str) -> bool:
    names = (label.obj_class.name, label.obj_class.name + suffix)
    return any(
        other.obj_class.name in names and are_equal(label.geometry, other.geometry)
        for other in others
        if type(other.geometry) is type(label.geometry)
    )


def are_equal(one: Any, other: Any) -> bool:
    """Whether two geometries of a kind cover the same pixels but for roundings: in batches of another size, or on another device,
    a network's sums differ in the last digits, which can turn the class of a pixel where two tie."""
    a, b = one.to_bbox(), other.to_bbox()
    near = max(SLACK, max(a.height, a.width) * SHARE)
    if max(abs(a.top - b.top), abs(a.left - b.left), abs(a.bottom - b.bottom), abs(a.right - b.right)) > near:
        return False
    top, left = min(a.top, b.top), min(a.left, b.left)
    size = (max(a.bottom, b.bottom) - top + 1, max(a.right, b.right) - left + 1)
    ours, theirs = (_pixels(geometry, top, left, size) for geometry in (one, other))
    return bool((ours ^ theirs).sum() <= max(SLACK, (ours | theirs).sum() * SHARE))


def _pixels(geometry: Any, top: int, left: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    if isinstance(geometry, sly.Bitmap | sly.AlphaMask):
        row, column = geometry.origin.row - top, geometry.origin.col - left
        mask[row : row + geometry.data.shape[0], column : column + geometry.data.shape[1]] = geometry.data > 0
        return mask
    drawn = mask.astype(np.uint8)
    geometry.translate(-top, -left).draw(drawn, color=1)
    return drawn > 0
