"""Predictions into projects of the platform."""

from __future__ import annotations

from typing import Any

import supervisely as sly

from serve_app.appended import leave_out_what_is_there, name_tags
from serve_app.errors import RequestError
from serve_app.sdk_bridge.base import ServingBase
from serve_app.sdk_bridge.replaced import OurRequest


class IntoProjects(ServingBase):
    def upload_predictions(
        self,
        predictions: list[Any],
        api: sly.Api,
        upload_mode: str,
        context: dict[str, Any] | None = None,
        dst_dataset_id: int | None = None,
        dst_project_id: int | None = None,
        **more: Any,
    ) -> None:
        """The SDK's, which would add the same objects again when a request that was cut off is sent again."""
        context = {} if context is None else context
        if isinstance(more.get("inference_request"), OurRequest):
            more["inference_request"].is_fetched = False  # what matters goes into the project
        if dst_project_id is not None and all(prediction.project_id == dst_project_id for prediction in predictions):
            dst_project_id = None  # as documented: into the images themselves, not into copies of them
        suffix = more.get("model_prediction_suffix") or "_nn"
        target = dst_project_id
        if target is None and dst_dataset_id is not None:
            target = api.dataset.get_info_by_id(dst_dataset_id).project_id
        for project_id in {target or prediction.project_id for prediction in predictions}:
            those = [p for p in predictions if (target or p.project_id) == project_id]
            name_tags(those, api, context, project_id, suffix)
        if upload_mode in ("append", "iou_merge") and dst_project_id is None and dst_dataset_id is None:
            leave_out_what_is_there(predictions, api, context, suffix)
        try:
            super().upload_predictions(predictions, api, upload_mode, context, dst_dataset_id, dst_project_id, **more)
        except ValueError as error:  # classes of the project that have another shape
            raise RequestError(f"{error} Choose another output, or give model_prediction_suffix, which names classes") from error
