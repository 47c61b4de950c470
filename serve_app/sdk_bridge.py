"""The only module that touches the SDK's internals: its serving app, with our prediction and without its defects.

What is relied on is guarded by tests/test_serve_sdk_bridge.py, which fails when the pinned SDK changes.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import supervisely as sly
import uvicorn
from fastapi import FastAPI
from supervisely._utils import batched
from supervisely.nn.inference import gui as sdk_gui
from supervisely.nn.inference import inference as sdk
from supervisely.nn.inference.inference_request import InferenceRequest, InferenceRequestsManager
from supervisely.nn.utils import ModelSource, RuntimeType

from hrda_core.data.samples import Image
from serve_app.appended import leave_out_what_is_there, name_tags
from serve_app.command_line import parse_arguments, predict_files
from serve_app.errors import RequestError
from serve_app.image_cache import ImageCache
from serve_app.limits import PixelBudget, Refused
from serve_app.request_state import check_transport, read_frames, read_rectangles, read_state
from serve_app.safe_checkpoints import forbid_unsafe_unpickling
from serve_app.service import Service
from serve_app.serving_gui import ServingGUI
from serve_app.uploads import Upload, decode, pixels_of

ANSWERED = 60  # seconds that an answered request is remembered
AT_ONCE = 4  # images of a batch that are predicted side by side, so that their tiles share batches


class PatientUploader(sdk.Uploader):
    """The SDK's, which calls a request finished while it still uploads, after 30 seconds, and drops an error at the very end."""

    def join(self, timeout: float | None = None) -> None:
        super().join(None)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        result = super().__exit__(kind, error, trace)
        if kind is None and self.exception is not None:
            raise self.exception
        return result


class OurRequest(InferenceRequest):
    """The SDK's, which pauses at 500 results that nobody has fetched, also where nobody will before its end."""

    is_fetched = True  # results are fetched while it runs

    def pause(self) -> None:
        if self.is_fetched:
            super().pause()


class Requests(InferenceRequestsManager):
    """The SDK's, which names a request by the clock, so that two that come at once can get each other's answers, and keeps every
    answered one for an hour."""

    def create(self, inference_request_uuid: str | None = None) -> OurRequest:
        request = OurRequest(inference_request_uuid or uuid.uuid4().hex, manager=self)
        self.add(request)
        return request

    def get(self, inference_request_uuid: str) -> InferenceRequest:
        if inference_request_uuid is not None and inference_request_uuid not in self._inference_requests:
            raise Refused(404, "unknown_request", f"there is no request {str(inference_request_uuid)[:80]!r}; it may be too old")
        return super().get(inference_request_uuid)

    def run(self, func: Any, *arguments: Any, **options: Any) -> Any:
        request = self.create()
        request.is_fetched = False
        try:
            return super().run(func, *arguments, inference_request=request, **options)
        finally:
            request._ttl = ANSWERED


def _put_in_ours() -> None:
    forbid_unsafe_unpickling()  # the SDK unpickles checkpoints before our code sees them
    sdk.InferenceImageCache = ImageCache
    sdk.Uploader = PatientUploader
    sdk.InferenceRequestsManager = Requests
    sdk_gui.ServingGUITemplate = ServingGUI


def _check_paths(model_files: Any) -> None:
    """Raises RequestError where they are no paths of files, or might lead somewhere else."""
    if not isinstance(model_files, Mapping) or not model_files.get("checkpoint"):
        raise RequestError("model_files: give the path of a checkpoint, {'checkpoint': '/.../best.pth'}")
    for kind, path in model_files.items():
        if path is None:
            continue
        parts = path.replace("\\", "/").split("/") if isinstance(path, str) else [".."]
        if ".." in parts or "://" in str(path) or "\0" in str(path) or parts[-1] in ("", "."):
            raise RequestError(f"model_files: {str(kind)[:40]}={str(path)[:100]!r}: give the path of a file, no url and no '..'")


def _no_rectangles(state: Mapping[str, Any]) -> None:
    if (state.get("settings") or {}).get("rectangles") is not None:
        raise RequestError("rectangles: they are for images that a request lists; use `rectangle`, which holds for every image")


class BridgedServing(sly.nn.inference.SemanticSegmentation):
    """The SDK's serving app, with the gaps that model.py fills: a subclass gives the methods of the first section."""

    DEFAULT_BATCH_SIZE = AT_ONCE

    def __init__(self, **options: Any) -> None:
        _put_in_ours()
        self.service = Service()
        self.limits = self.service.limits
        self._of_thread = threading.local()
        self._side_by_side = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="image")
        self._decoded = PixelBudget(self.limits.megapixels * 1e6)
        self._freezing = threading.RLock()
        self._timing = threading.Lock()
        self._used_at = time.monotonic()
        super().__init__(use_serving_gui_template=True, sliding_window_mode="none", **options)

    # -- for subclasses ------------------------------------------------------------------------------------------

    def annotate(self, image: Image, settings: Any, rectangle: sly.Rectangle | None, stop: Any) -> tuple[sly.Annotation, Any]:
        """The objects of an image, or of a rectangle in it, and plain facts about the prediction."""
        raise NotImplementedError

    def read_settings(self, given: Mapping[str, Any]) -> Any:
        """Raises RequestError."""
        raise NotImplementedError

    def sleep(self) -> None:
        """Frees the device's memory."""
        raise NotImplementedError

    def wake(self) -> None:
        """Undoes `sleep`."""
        raise NotImplementedError

    def forget(self) -> None:
        """The model is taken out of service."""
        raise NotImplementedError

    def add_routes(self, server: FastAPI) -> None:
        """Once the SDK's are there."""
        raise NotImplementedError

    # -- deployment ----------------------------------------------------------------------------------------------

    def _load_model_headless(self, model_files: Any, model_source: str, *arguments: Any, **options: Any) -> None:
        """Nothing of the former model remains, also where the new one fails to load."""
        _check_paths(model_files)
        if model_source == ModelSource.PRETRAINED:
            self._check_published(model_files)
        with self._freezing:  # one at a time: of two at once, one's engine would be left over
            if self._model_served:
                self.shutdown_model()
            super()._load_model_headless(model_files, model_source, *arguments, **options)

    def _download_pretrained_model(self, model_files: Any, log_progress: bool = True, headless: bool = False) -> dict[str, str]:
        """The SDK's would fetch any url that a request gives, and write to wherever the answer says. Ours are found by name."""
        self._check_published(model_files)
        return dict(model_files)

    def _check_published(self, model_files: Any) -> None:
        known = [model["meta"]["model_files"] for model in self.pretrained_models]
        if model_files not in known:
            names = ", ".join(files["checkpoint"] for files in known)
            raise RequestError(f"model_files={str(model_files)[:200]}: no published model; their checkpoints are {names}")

    def _download_custom_model(
        self, model_files: Any, log_progress: bool = True, model_source: str = ModelSource.CUSTOM
    ) -> dict[str, str]:
        _check_paths(model_files)
        files: dict[str, str] = super()._download_custom_model(model_files, log_progress, model_source)
        return files

    def shutdown_model(self) -> None:
        with self._freezing:
            self.forget()
            self.classes, self._model_meta = None, None
            super().shutdown_model()

    def _set_model_meta_custom_model(self, model_info: Any) -> None:
        """Classes come from the checkpoint itself; the SDK would take those of a file beside it."""

    def _set_model_meta_external_model(self, classes_path: str | None = None) -> None:
        """As above."""

    def _extract_model_files_from_checkpoint(self, checkpoint_path: str) -> dict[str, Any]:
        """The SDK would write the files embedded in a checkpoint to wherever their names say. We need none of them."""
        return {}

    def export_onnx(self, deploy_params: Any) -> Any:
        raise RequestError(f"runtime={deploy_params.get('runtime')!r}: this app serves with {RuntimeType.PYTORCH}")

    export_tensorrt = export_onnx

    def update_model_meta(self) -> None:
        raise RequestError("no model is deployed: choose one and press Serve, or deploy one by the API")

    def _freeze_model(self) -> None:
        """The SDK's would move the model to the CPU and fail where it is there already; ours frees the memory."""
        with self._freezing:
            if self._model_served and not self._model_frozen:
                self.sleep()
                self._model_frozen = True
                sly.logger.info("The model sleeps to save resources; the next request wakes it.")

    def _schedule_freeze_on_inactivity(self) -> None:
        """The model was used now. The SDK's lets two requests at once leave a timer behind, which ends a busy model."""
        with self._timing:
            self._used_at = time.monotonic()
            if self._freeze_timer is None:
                self._start_timer(self._inactivity_timeout)

    def _start_timer(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._freeze_where_idle)
        timer.daemon = True
        self._freeze_timer: Any = timer
        timer.start()

    def _freeze_where_idle(self) -> None:
        with self._timing:
            if self._freeze_timer is not threading.current_thread():
                return  # of a model that is gone
            self._freeze_timer = None
            left = self._used_at + self._inactivity_timeout - time.monotonic()
            if left > 0:
                self._start_timer(left)
                return
        self._freeze_model()

    def _unfreeze_model(self) -> None:
        with self._freezing:
            if self._model_frozen:
                self.wake()
                self._model_frozen = False

    def notices(self) -> tuple[str, ...]:
        """What to say about the model in service, beside that it is."""
        raise NotImplementedError

    def _initialize_app_layout(self) -> None:
        self.gui.device_in_use, self.gui.notices = (lambda: self.device), self.notices
        super()._initialize_app_layout()

    # -- command line ---------------------------------------------------------------------------------------------

    def _parse_cli_deploy_args(self) -> tuple[Any, bool]:
        return parse_arguments(sys.argv)

    def _get_deploy_params_from_args(self) -> tuple[dict[str, Any], bool]:
        """The SDK's would unpickle the checkpoint to see what it is."""
        choice = self._args
        params = {
            "device": choice.device,
            "runtime": RuntimeType.PYTORCH,
            "model_precision": choice.precision,
            "class_names": choice.class_names,
        }
        known = {model["meta"]["model_name"].lower(): model for model in self.pretrained_models}
        model = known.get(choice.model.lower())
        if model is not None:
            return {
                "model_source": ModelSource.PRETRAINED,
                "model_files": model["meta"]["model_files"],
                "model_info": model,
            } | params, False
        path = Path(choice.model)
        info = {"model_name": path.stem, "framework_name": self.FRAMEWORK_NAME, "artifacts_dir": str(path.parent.parent)}
        custom = {"model_source": ModelSource.CUSTOM, "model_files": {"checkpoint": choice.model}, "model_info": info}
        if not path.is_file() and self.api is None:
            raise RequestError(f"{choice.model}: there is no such file, and no published model of this name ({', '.join(known)})")
        return custom | params, not path.is_file()

    def _parse_inference_settings_from_args(self) -> None:
        """Done by `parse_arguments`."""

    def _inference_by_cli_deploy_args(self) -> None:
        """The SDK's would read a whole folder into memory, and end at the first broken file."""
        if self._args.input is None:
            super()._inference_by_cli_deploy_args()
        elif not predict_files(self, self._args):
            sys.exit(1)

    # -- prediction ----------------------------------------------------------------------------------------------

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
            with self._decoded.hold(pixels_of(upload, self.limits)):
                return self.annotate(decode(upload, self.limits), checked, rectangles[position], stop)

        self._schedule_freeze_on_inactivity()
        self._unfreeze_model()
        try:
            together = len(source) > 1
            done = list((self._side_by_side.map if together else map)(one, range(len(source))))
        finally:
            self._schedule_freeze_on_inactivity()
        return [annotation for annotation, _ in done], [facts for _, facts in done]

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
                annotations, facts = self._inference_auto(batch, settings)
                names = [image.name if isinstance(image, Upload) else None for image in batch]
                self._hand_out(annotations, facts, names, inference_request)

    def _hand_out(
        self, annotations: list[sly.Annotation], facts: list[Any], names: Sequence[str | None], request: InferenceRequest
    ) -> None:
        predictions = []
        for annotation, fact, name in zip(annotations, facts, names, strict=True):
            prediction = sdk.Prediction(annotation, model_meta=self.model_meta, name=name)
            prediction.extra_data["slides_data"] = fact
            predictions.append(prediction)
        request.add_results(self._format_output(predictions))
        request.done(len(predictions))

    def _format_output(self, predictions: list[Any]) -> list[dict[str, Any]]:
        """With the name under which one of the SDK's clients looks for the image's."""
        return [{"image_name": result["name"], **result} for result in super()._format_output(predictions)]

    def run_images(self, uploads: list[Upload], state: dict[str, Any]) -> list[dict[str, Any]]:
        """Predicts now. Raises what went wrong, where the SDK's batch route would answer with an empty list."""
        with self.service.admission.enter():
            results: list[dict[str, Any]] = self.inference_requests_manager.run(self._inference_images, uploads, state)
        return results

    def schedule_images(self, uploads: list[Upload], state: dict[str, Any]) -> str:
        """Predicts in the background, under the id that is returned. Raises Refused where the line is full."""
        return self._schedule(self._inference_images, uploads, state)

    def schedule_video(self, path: Path, state: dict[str, Any]) -> str:
        """Predicts frames of a video file in the background; the file is removed afterwards."""
        try:
            return self._schedule(self._inference_video_file, path, state)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _inference_video_file(self, path: Path, state: dict[str, Any], inference_request: InferenceRequest) -> Any:
        try:
            return self._inference_video(str(path), state, inference_request)
        finally:
            path.unlink(missing_ok=True)

    def _schedule(self, work: Any, *arguments: Any) -> str:
        place = contextlib.ExitStack()
        place.enter_context(self.service.admission.enter())
        request, future = self.inference_requests_manager.schedule_task(work, *arguments)
        future.add_done_callback(lambda _: place.close())
        return str(request.uuid)

    def run_video_id(self, api: sly.Api, state: dict[str, Any]) -> dict[str, Any]:
        """Raises what went wrong, where the SDK's route would answer with an empty list."""
        request = self.inference_requests_manager.create()
        request.is_fetched = False
        _, future = self.inference_requests_manager.schedule_task(self._inference_video_id, api, state, inference_request=request)
        future.result()
        if request.exception is not None:
            raise request.exception
        return {"ann": request.pop_pending_results(), **(request.final_result or {})}

    @contextlib.contextmanager
    def _stoppable(self, request: InferenceRequest) -> Iterator[None]:
        """Stop ends the image at hand; what was predicted before stays."""
        self._of_thread.stop, self._of_thread.images = request.is_stopped, 0
        try:
            yield
        except Exception:
            if not request.is_stopped():
                raise
        finally:
            self._of_thread.stop, self._of_thread.images = None, None

    def _inference_image_ids(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> None:
        with self._stoppable(inference_request):
            super()._inference_image_ids(api, state, inference_request)

    def _inference_project_id(self, api: sly.Api, state: dict[str, Any], inference_request: InferenceRequest) -> None:
        _no_rectangles(state)
        with self._stoppable(inference_request):
            super()._inference_project_id(api, state, inference_request)

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

    # -- predictions into projects -------------------------------------------------------------------------------

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

    # -- the server ----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        super().serve()  # of a command line, it returns when the server has ended
        self._add_routes_once()

    def _run_server(self) -> None:
        self._add_routes_once()
        config = uvicorn.Config(self._app, self._args.host, self._args.port, ws="websockets")
        self._uvicorn_server = uvicorn.Server(config)
        self._uvicorn_server.run()

    def _add_routes_once(self) -> None:
        if not getattr(self, "_has_our_routes", False):
            self._has_our_routes = True
            self.add_routes(self._app.get_server())

    def get_batch_size(self) -> int:
        return self.DEFAULT_BATCH_SIZE
