"""Requests now and in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import supervisely as sly
from supervisely.nn.inference.inference_request import InferenceRequest

from serve_app.sdk_bridge.prediction import Predictions
from serve_app.uploads import Upload


class RequestsInLine(Predictions):
    def run_images(self, uploads: list[Upload], state: dict[str, Any]) -> list[dict[str, Any]]:
        """Predicts now. Raises what went wrong, where the SDK's batch route would answer with an empty list."""
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
        request, _ = self.inference_requests_manager.schedule_task(work, *arguments)
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
