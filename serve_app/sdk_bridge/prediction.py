"""From images to annotations: settings, batches, rectangles, Stop; images of requests, of the platform, frames of videos."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import supervisely as sly
from supervisely._utils import batched
from supervisely.nn.inference import inference as sdk
from supervisely.nn.inference.inference_request import InferenceRequest

from hrda_core.data.samples import Image
from serve_app.engine import EngineClosed
from serve_app.errors import RequestError
from serve_app.limits import Refused
from serve_app.request_state import check_transport, read_frames, read_rectangles, read_state
from serve_app.sdk_bridge.base import ServingBase
from serve_app.uploads import Upload, decode, pixels_of

AT_ONCE = 4  # images of a batch that are predicted side by side, so that their tiles share batches


class Predictions(ServingBase):
    DEFAULT_BATCH_SIZE = AT_ONCE

    def __init__(self, **options: Any) -> None:
        self._side_by_side = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="image")
        super().__init__(**options)

    def is_batch_inference_supported(self) -> bool:
        return True

    def _get_inference_settings(self, state: dict[str, Any]) -> dict[str, Any]:
        """As they came, with the rectangle; defaults are filled in where they are checked."""
        settings = dict(state.get("settings") or {})
        return settings | {"rectangle": state["rectangle"]} if "rectangle" in state else settings

    def validate_inference_state(self, state: Any, log_error: bool = True) -> None:
        """Everything is checked before a request is begun, so that what is wrong is a clear 400, also of an async request."""
        if not self._model_served:
            raise Refused(409, "not_deployed", "no model is deployed: choose one and press Serve, or deploy one by the API")
        state = read_state(state)
        settings = self._get_inference_settings(state)
        self.read_settings(settings)
        read_rectangles(settings, 1)
        check_transport({"upload_mode": state.get("upload_mode")})

    def _inference_auto(self, source: Sequence[Any], settings: dict[str, Any]) -> tuple[list[sly.Annotation], list[Any]]:
        """The SDK's would read all images first, cut the rectangle out of bitmaps only, and could not be stopped."""
        checked = self.read_settings(settings)
        before = getattr(self._of_thread, "images", None)  # of the same request, whose images come batch by batch
        rectangles = read_rectangles(settings, len(source), before or 0)
        if before is not None:
            self._of_thread.images = before + len(source)
        stop = getattr(self._of_thread, "stop", None)

        def one(position: int) -> tuple[sly.Annotation, Any]:
            image = source[position]
            if isinstance(image, np.ndarray):
                return self.annotate(image, checked, rectangles[position], stop)
            upload = image if isinstance(image, Upload) else Upload.of_path(Path(image))
            with self.decoded.hold(pixels_of(upload, self.limits)):
                return self.annotate(decode(upload, self.limits), checked, rectangles[position], stop)

        self._schedule_freeze_on_inactivity()
        try:
            together = len(source) > 1
            done = list((self._side_by_side.map if together else map)(one, range(len(source))))
        finally:
            self._schedule_freeze_on_inactivity()
        self._check_model({facts["weights_version"] for _, facts in done})
        return [annotation for annotation, _ in done], [facts for _, facts in done]

    def _check_model(self, versions: set[str]) -> None:
        """A request that goes on for hours does not change from one model to another unnoticed."""
        of_request = getattr(self._of_thread, "versions", None)
        seen = versions | (of_request or set())
        if len(seen) > 1:
            raise EngineClosed("another model was put into service while this request ran; send it again")
        if of_request is not None:
            of_request |= seen

    def _inference_benchmark(
        self, images_np: list[Image], settings: dict[str, Any]
    ) -> tuple[list[sly.Annotation], dict[str, Any]]:
        _no_rectangles({"settings": settings})
        start = time.monotonic()
        annotations, _ = self._inference_auto(images_np, settings)
        milliseconds = (time.monotonic() - start) * 1000
        return annotations, {"total": milliseconds, "preprocess": None, "inference": milliseconds, "postprocess": None}

    def _inference_images(self, images: Sequence[Any], state: dict[str, Any], inference_request: InferenceRequest) -> None:
        """Uploads are decoded when their turn comes, and belong to their request, whatever they are called."""
        settings = self._get_inference_settings(state)
        read_rectangles(settings, len(images))
        inference_request.set_stage(InferenceRequest.Stage.INFERENCE, 0, len(images))
        with self._stoppable(inference_request):
            for batch in batched(images, self._get_batch_size_from_state(state)):
                meta = self.model_meta  # now: once it is stopped, there is none
                annotations, facts = self._inference_auto(batch, settings)
                names = [image.name if isinstance(image, Upload) else None for image in batch]
                self._hand_out(annotations, facts, names, meta, inference_request)

    def _hand_out(
        self,
        annotations: list[sly.Annotation],
        facts: list[Any],
        names: Sequence[str | None],
        meta: sly.ProjectMeta,
        request: InferenceRequest,
    ) -> None:
        predictions = []
        for annotation, fact, name in zip(annotations, facts, names, strict=True):
            prediction = sdk.Prediction(annotation, model_meta=meta, name=name)
            prediction.extra_data["slides_data"] = fact
            predictions.append(prediction)
        request.add_results(self._format_output(predictions))
        request.done(len(predictions))

    def _format_output(self, predictions: list[Any]) -> list[dict[str, Any]]:
        """With the name under which one of the SDK's clients looks for the image's."""
        return [{"image_name": result["name"], **result} for result in super()._format_output(predictions)]

    @contextlib.contextmanager
    def _stoppable(self, request: InferenceRequest) -> Iterator[None]:
        """Stop ends the image at hand; what was predicted before stays."""
        self._of_thread.stop, self._of_thread.images, self._of_thread.versions = request.is_stopped, 0, set()
        try:
            yield
        except Exception:
            if not request.is_stopped():
                raise
        finally:
            self._of_thread.stop, self._of_thread.images, self._of_thread.versions = None, None, None

    def _inference_image_ids(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> None:
        with self._stoppable(inference_request):
            super()._inference_image_ids(api, state, inference_request)

    def _inference_project_id(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> None:
        """`cache_project_on_model` would first bring the whole project here, and decode its images the SDK's way."""
        _no_rectangles(state)
        with self._stoppable(inference_request):
            super()._inference_project_id(api, {**state, "cache_project_on_model": False}, inference_request)

    def _inference_video(self, path: str, state: dict[str, Any], inference_request: InferenceRequest) -> Any:
        with sdk.VideoFrameReader(path) as video:
            state = self._of_video(read_frames(state, video.frames_count()))
        with self._stoppable(inference_request):
            return super()._inference_video(path, state, inference_request)

    def _inference_video_id(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> Any:
        with self._stoppable(inference_request):
            return super()._inference_video_id(api, self._of_video(state), inference_request)

    def _tracking_by_detection(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> Any:
        return super()._tracking_by_detection(api, self._of_video(state), inference_request)

    def _of_video(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Frames are decoded by the batch: no more at a time than are predicted side by side."""
        _no_rectangles(state)
        return {**state, "batch_size": min(self._get_batch_size_from_state(dict(state)), AT_ONCE)}

    def get_batch_size(self) -> int:
        return self.DEFAULT_BATCH_SIZE


def _no_rectangles(state: Mapping[str, Any]) -> None:
    if (state.get("settings") or {}).get("rectangles") is not None:
        raise RequestError("rectangles: they are for images that a request lists; use `rectangle`, which holds for every image")
