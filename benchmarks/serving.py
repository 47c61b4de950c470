"""Requests per second and latency of the serving engine with 1, 4 and 8 clients at once.

    python -m benchmarks.serving                          # a minute or two on two cores
    python -m benchmarks.serving --encoder mit_b5 --device cuda --precision bf16 --batch 16 --requests 200

Three ways to serve the same requests: `one by one` (a lock around `Predictor`), `own batches` (the engine, every request with
batches of its own: its tiles take turns with those of others) and `shared batches`. Random weights: they cost what trained
ones cost. Rounds of the three ways alternate, so that a busy machine is as unfair to each; numbers are medians of rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tiling import micro
from hrda_core import Predictor, build_model
from serve_app.engine import Engine

RESULTS = Path(__file__).with_name("results")
WAYS = ("one by one", "own batches", "shared batches")
Predict = Callable[[NDArray[np.uint8]], Any]


def checkpoint(encoder: str, window: int, overlap: float) -> dict[str, Any]:
    """Random weights, two classes."""
    content = {**micro(2), "metrics": {}, "provenance": {}}
    if encoder != content["model_config"]["encoder"]:
        content["model_config"] = {"encoder": encoder, "num_classes": 2, "detail_size": window // 2}
        content["teacher"] = content["student"] = build_model(**content["model_config"]).state_dict()
    content["preprocessing"] |= {"window": [window, window], "overlap": overlap}
    return content


class OneByOne:
    """What serving was without the engine: one request at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._lock = threading.Lock()

    def predict(self, image: NDArray[np.uint8]) -> Any:
        with self._lock:
            return self._predictor.predict([image])[0]


def serve(predict: Predict, clients: int, images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Clients that send the images, each its next one once it has an answer."""
    waiting, lock, seconds = list(images), threading.Lock(), []

    def client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                image = waiting.pop()
            start = time.perf_counter()
            predict(image)
            seconds.append(time.perf_counter() - start)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    ordered = sorted(seconds)
    return {
        "requests_per_second": len(images) / wall,
        "p50_seconds": statistics.median(ordered),
        "p95_seconds": ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)],
    }


def measure(content: dict[str, Any], side: int, clients: int, requests: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(requests)]
    place = {"device": options.device, "precision": options.precision, "tile_batch": options.batch}
    engines = {way: Engine(content, **place, share_batches=way == WAYS[2]) for way in WAYS[1:]}
    ways: dict[str, Predict] = {WAYS[0]: OneByOne(Predictor(content, **place)).predict}
    ways |= {way: engine.predict for way, engine in engines.items()}
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for predict in ways.values():
        predict(images[0])
    for _ in range(options.rounds):
        for way, predict in ways.items():
            rounds[way].append(serve(predict, clients, images))
    rows = []
    for way, runs in rounds.items():
        row: dict[str, Any] = {"side": side, "clients": clients, "requests": requests, "way": way}
        row |= {key: float(f"{statistics.median(run[key] for run in runs):.3g}") for key in runs[0]}
        if way in engines:
            batches = engines[way].tile_statistics()
            row["mean_batch"] = round(batches.tiles / sum(batches.batches.values()), 2)
            engines[way].close()
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="test_efficientnet", help="timm's smallest one by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--window", type=int, default=512, help="side of a tile in pixels")
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=4, help="tiles per pass of the network")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--requests", type=int, default=16, help="of the smallest images; larger ones get half")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what to know about the machine")
    options = parser.parse_args()
    content = checkpoint(options.encoder, options.window, options.overlap)
    rows = []
    for side in options.sides:
        requests = options.requests if side == min(options.sides) else max(options.requests // 2, 1)
        for clients in options.clients:
            rows += measure(content, side, clients, requests, options)
    print(record("python -m benchmarks.serving", options, rows))


def record(command: str, options: argparse.Namespace, rows: list[dict[str, Any]]) -> Path:
    """Adds a run to today's results, with what is to be known about the machine -> their file."""
    now = datetime.now(timezone.utc)
    report = {
        "command": command,
        "options": {key: value for key, value in vars(options).items() if key != "note"},
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores",
        "note": options.note,
        "load": [round(value, 1) for value in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "pytorch": torch.__version__,
        "python": platform.python_version(),
        "rows": rows,
    }
    path = RESULTS / f"{now:%Y-%m-%d}-serving.json"
    earlier = json.loads(path.read_text())["runs"] if path.exists() else []
    path.write_text(json.dumps({"runs": [*earlier, report]}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
