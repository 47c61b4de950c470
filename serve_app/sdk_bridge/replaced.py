"""The SDK's parts that have ours in their place: requests under way, uploads of results, the cache of images, the page."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from supervisely.nn.inference import gui as sdk_gui
from supervisely.nn.inference import inference as sdk
from supervisely.nn.inference.inference_request import InferenceRequest, InferenceRequestsManager

from sdk_fixes.page_messages import send_from_the_server
from serve_app.image_cache import ImageCache
from serve_app.limits import Refused
from serve_app.safe_checkpoints import forbid_unsafe_unpickling
from serve_app.service import Service
from serve_app.serving_gui import ServingGUI

ANSWERED = 60  # seconds that an answered request is remembered


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
    answered one for an hour. Each has a place in line; a failed one does not keep its images."""

    service: Service  # set by the app that makes one

    def create(self, inference_request_uuid: str | None = None) -> OurRequest:
        request = OurRequest(inference_request_uuid or uuid.uuid4().hex, manager=self)
        self.add(request)
        return request

    def get(self, inference_request_uuid: str) -> InferenceRequest:
        if inference_request_uuid is not None and inference_request_uuid not in self._inference_requests:
            raise Refused(404, "unknown_request", f"there is no request {str(inference_request_uuid)[:80]!r}; it may be too old")
        return super().get(inference_request_uuid)

    def schedule_task(self, func: Any, *arguments: Any, **options: Any) -> Any:
        """Raises Refused where the line is full."""
        place = contextlib.ExitStack()
        place.enter_context(self.service.admission.enter())
        try:
            request, future = super().schedule_task(func, *arguments, **options)
        except BaseException:
            place.close()
            raise

        def end(_: Any) -> None:
            place.close()
            _forget_frames(request.exception)

        future.add_done_callback(end)
        return request, future

    def run(self, func: Any, *arguments: Any, **options: Any) -> Any:
        request = self.create()
        request.is_fetched = False
        try:
            return super().run(func, *arguments, inference_request=request, **options)
        finally:
            request._ttl = ANSWERED
            request._exception = None  # told already; its frames hold the images


def _forget_frames(error: BaseException | None) -> None:
    """The log and the request have the traceback as text."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def put_in_ours() -> None:
    forbid_unsafe_unpickling()  # the SDK unpickles checkpoints before our code sees them
    sdk.InferenceImageCache = ImageCache
    sdk.Uploader = PatientUploader
    sdk.InferenceRequestsManager = Requests
    sdk_gui.ServingGUITemplate = ServingGUI
    send_from_the_server()
