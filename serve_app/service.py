"""What the endpoints serve, and what holds for all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve_app.engine import Engine
from serve_app.limits import RETRY_AFTER, Admission, Limits, Refused
from serve_app.metrics import Metrics

NO_MODEL = "no model is loaded: deploy one"


class Service:
    """The engine in service, or why there is none; limits, the line of requests, and counters.

    Whoever loads models sets `engine`, `reason` and `asleep`: assignments that requests see one after the other.
    `asleep` is the card of a model that the next prediction wakes.
    """

    def __init__(self, limits: Limits | None = None, engine: Engine | None = None) -> None:
        self.limits = limits or Limits.from_environment()
        self.engine = engine
        self.asleep: dict[str, Any] | None = None
        self.reason = NO_MODEL
        self.metrics = Metrics()
        self.admission = Admission(int(self.limits.queue))
        self.threads = ThreadPoolExecutor(max(int(self.limits.active), 1), thread_name_prefix="map")  # not those of other routes

    def ready_engine(self) -> Engine:
        """Raises Refused (503) until a model is loaded."""
        engine = self.engine
        if engine is None:
            raise Refused(503, "not_ready", self.reason, RETRY_AFTER)
        return engine

    def card(self) -> dict[str, Any]:
        """Of the model in service, also while it sleeps. Raises Refused (503) until a model is loaded."""
        engine, asleep = self.engine, self.asleep
        return asleep if engine is None and asleep is not None else self.ready_engine().model_card()
