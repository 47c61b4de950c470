"""A model that nobody uses gives its memory back, and is there again at the next request."""

from __future__ import annotations

import threading
import time
from typing import Any

import supervisely as sly

from serve_app.sdk_bridge.base import ServingBase


class Sleeping(ServingBase):
    def __init__(self, **options: Any) -> None:
        self._timing = threading.Lock()
        self._used_at = time.monotonic()
        super().__init__(**options)

    def _freeze_model(self) -> None:
        """The SDK's would move the model to the CPU and fail where it is there already; ours frees the memory."""
        with self.freezing:
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

    def shutdown_model(self) -> None:
        with self._timing:  # the timer could end between the SDK's two looks at it
            super().shutdown_model()

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
        with self.freezing:
            if self._model_frozen:
                self.wake()
                self._model_frozen = False
