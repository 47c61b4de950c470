"""The platform's own evaluation, with the trained model served beside the session instead of within it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisely.nn.inference import SessionJSON
from supervisely.nn.training import train_app

from train_app.served_model import ServedModel


class AlreadyServed:
    """What the SDK makes of an inference class: there is nothing left to load and to serve."""

    def __init__(self, **options: Any) -> None:
        pass

    def _load_model_headless(self, **params: Any) -> None:
        pass

    def serve(self) -> None:
        pass


@contextlib.contextmanager
def serving(checkpoint: Path, device: str, info: Mapping[str, Any], folder: Path) -> Iterator[type[AlreadyServed]]:
    """Serves the checkpoint, and leads the SDK's evaluation there, which asks port 8000: that is the session's own.

    Raises:
        UserError: it cannot be served.
    """
    with ServedModel(checkpoint, device, info, folder) as served:

        class Session(SessionJSON):
            """The evaluator looks for a background class in the labels or the predictions."""

            def set_inference_settings(self, inference_settings: dict[str, Any]) -> Any:
                return super().set_inference_settings({**inference_settings, "background": True})

        def session(api: Any, session_url: str) -> SessionJSON:
            return Session(api, session_url=served.url)

        train_app.SessionJSON = session
        try:
            yield AlreadyServed
        finally:
            train_app.SessionJSON = SessionJSON
