"""Numbers for Prometheus: requests, latency, tiles, batches, the queue and memory, in its text format 0.0.4."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

import psutil
import torch

from serve_app.engine import Engine
from serve_app.limits import Admission

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Requests since the start of the process, by route; what else is asked for is looked up when it is rendered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()  # by route, method and status
        self._buckets: dict[str, list[int]] = {}  # by route: how many took up to SECONDS[i], the last one: longer
        self._seconds: Counter[str] = Counter()
        self._process = psutil.Process()

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request that was answered. status: of HTTP; 499 where the client had gone."""
        with self._lock:
            self._requests[route, method, str(status)] += 1
            self._buckets.setdefault(route, [0] * (len(SECONDS) + 1))[bisect_left(SECONDS, seconds)] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]

    def render(self, engine: Engine | None, admission: Admission) -> str:
        lines: list[str] = []
        with self._lock:
            _family(lines, "hrda_requests_total", "counter", "Requests answered.")
            for (route, method, status), count in sorted(self._requests.items()):
                _sample(lines, "hrda_requests_total", {"route": route, "method": method, "status": status}, count)
            _family(lines, "hrda_request_seconds", "histogram", "Time from the request's first byte to the answer's last.")
            for route, counts in sorted(self._buckets.items()):
                _histogram(lines, "hrda_request_seconds", {"route": route}, SECONDS, counts, self._seconds[route])
        _gauge(lines, "hrda_requests_under_way", "Predictions that run or wait.", admission.inside)
        _gauge(lines, "hrda_requests_limit", "Predictions that may run or wait.", admission.queue)
        _gauge(lines, "hrda_ready", "1 where a model is loaded.", int(engine is not None))
        if engine is not None:
            _engine(lines, engine)
        _gauge(lines, "process_resident_memory_bytes", "Resident memory.", self._process.memory_info().rss)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            _cuda(lines)
        return "\n".join(lines) + "\n"


def _engine(lines: list[str], engine: Engine) -> None:
    statistics = engine.tile_statistics()
    _family(lines, "hrda_model_info", "gauge", "The model in service.")
    _sample(lines, "hrda_model_info", {"version": engine.weights_version, "device": str(engine.device)}, 1)
    _family(lines, "hrda_tiles_total", "counter", "Tiles predicted by the model in service.")
    _sample(lines, "hrda_tiles_total", {}, statistics.tiles)
    _family(lines, "hrda_tile_batch_size", "histogram", "Tiles in a pass of the network.")
    counts = [0] * (len(BATCHES) + 1)
    for size, count in statistics.batches.items():
        counts[bisect_left(BATCHES, size)] += count
    _histogram(lines, "hrda_tile_batch_size", {}, BATCHES, counts, statistics.tiles)
    _family(lines, "hrda_tile_batch_halvings_total", "counter", "How often memory ran out and the batch was halved.")
    _sample(lines, "hrda_tile_batch_halvings_total", {}, statistics.halvings)
    _gauge(lines, "hrda_tile_batch_limit", "Tiles that a pass of the network takes now.", engine.tile_batch)
    _gauge(lines, "hrda_tiles_waiting", "Tiles in line for the network.", engine.tiles_waiting)


def _cuda(lines: list[str]) -> None:
    devices = range(torch.cuda.device_count())
    _family(lines, "hrda_cuda_allocated_bytes", "gauge", "GPU memory in tensors.")
    for device in devices:
        _sample(lines, "hrda_cuda_allocated_bytes", {"device": str(device)}, torch.cuda.memory_allocated(device))
    _family(lines, "hrda_cuda_reserved_bytes", "gauge", "GPU memory that this process holds.")
    for device in devices:
        _sample(lines, "hrda_cuda_reserved_bytes", {"device": str(device)}, torch.cuda.memory_reserved(device))


def _histogram(
    lines: list[str],
    name: str,
    labels: Mapping[str, str],
    bounds: Iterable[float],
    counts: list[int],
    total: float,
) -> None:
    """counts: per bucket, one more than there are bounds. Prometheus wants them added up."""
    running = list(accumulate(counts))
    for bound, count in zip([f"{bound:g}" for bound in bounds] + ["+Inf"], running, strict=True):
        _sample(lines, f"{name}_bucket", {**labels, "le": bound}, count)
    _sample(lines, f"{name}_sum", labels, total)
    _sample(lines, f"{name}_count", labels, running[-1])


def _gauge(lines: list[str], name: str, text: str, value: float) -> None:
    _family(lines, name, "gauge", text)
    _sample(lines, name, {}, value)


def _family(lines: list[str], name: str, kind: str, text: str) -> None:
    lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(lines: list[str], name: str, labels: Mapping[str, str], value: float) -> None:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
