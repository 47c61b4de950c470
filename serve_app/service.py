"""What the endpoints serve, and what holds for all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from serve_app.engine import Engine
from serve_app.limits import RETRY_AFTER, Admission, Limits, Refused
from serve_app.metrics import Metrics

NO_MODEL = "no model is loaded: deploy one"


class Service:
    """The engine in service, or why there is none; limits, the line of requests, and counters.

    Whoever loads models sets `engine` and `reason`: two assignments, which requests see one after the other.
    """

    def __init__(self, limits: Limits | None = None, engine: Engine | None = None) -> None:
        self.limits = limits or Limits.from_environment()
        self.engine = engine
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
