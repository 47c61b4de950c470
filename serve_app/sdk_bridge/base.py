"""What the parts of the bridge share, and what model.py must give them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import supervisely as sly
from fastapi import FastAPI

from hrda_core.data.samples import Image
from serve_app.limits import PixelBudget
from serve_app.sdk_bridge.replaced import put_in_ours
from serve_app.service import Service


class ServingBase(sly.nn.inference.SemanticSegmentation):
    """The SDK's serving app with ours in the place of some of its parts."""

    def __init__(self, **options: Any) -> None:
        put_in_ours()
        self.service = Service()
        self.limits = self.service.limits
        self.decoded = PixelBudget(self.limits.megapixels * 1e6)  # images of batches that are in memory
        self.deploying = threading.RLock()  # one deployment at a time: of two at once, one's engine would be left over
        self.freezing = threading.RLock()  # the model falls asleep, wakes or is replaced
        self._of_thread = threading.local()  # of the request that the thread works on
        self.path_in_service: Path | None = None  # of the checkpoint, which a model that sleeps wakes from
        super().__init__(use_serving_gui_template=True, sliding_window_mode="none", **options)
        self.inference_requests_manager.service = self.service

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

    def notices(self) -> tuple[str, ...]:
        """What to say about the model in service, beside that it is."""
        raise NotImplementedError

    def add_routes(self, server: FastAPI) -> None:
        """Once the SDK's are there."""
        raise NotImplementedError
