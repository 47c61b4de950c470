"""The serving app as a process: latency with 1 and 16 clients, errors, memory; and images up to 12,000 x 9,000 px.

    python -m benchmarks.serving_clients clients      # 400 requests of one client, and of 16 at once; a minute on two cores
    python -m benchmarks.serving_clients sizes        # 1 x 1 px to 144 megapixels; some minutes on two cores

Both start `python -m serve_app.main deploy` with a micro checkpoint of random weights: they show what serving costs, not what a
model costs. All images have the same file name, and every answer of `clients` is compared with `Predictor`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import requests
import supervisely as sly
from numpy.typing import NDArray

from benchmarks.serving import checkpoint, record
from hrda_core import Predictor
from hrda_core.models.checkpoints import save_checkpoint

CLIENTS = (1, 16)
REQUESTS = 400
SIDES = (100, 140)  # of the images of `clients`, px
SIZES = ((1, 1), (7, 1), (640, 480), (1920, 1080), (4000, 3000), (8000, 6000), (12_000, 9000), (12_000, 12_000))  # width, height
ROUTES = ("/inference_image", "/predict/labels")
STARTING = 120.0  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`python -m serve_app.main deploy` -> its address and its process."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = [*("deploy", "--checkpoint", str(path), "--device", "cpu"), *("--host", "127.0.0.1", "--port", str(port))]
    kept = {key: value for key, value in os.environ.items() if key not in ("SERVER_ADDRESS", "API_TOKEN", "ENV")}
    own = {"HOME": str(path.parent), "SMART_CACHE_CONTAINER_DIR": str(path.parent / "cache")}
    log = path.with_name("log")
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "serve_app.main", *words], env=kept | own, stdout=out, stderr=out)
    try:
        end = time.monotonic() + STARTING
        while not answers(url):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the app does not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ready", timeout=5).ok
    except requests.RequestException:
        return False


def memory(url: str) -> float:
    """Resident, in MB, as /metrics tells."""
    text = requests.get(f"{url}/metrics", timeout=30).text
    return float(re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)[0]) / 2**20


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Large spots: (height, width, 3) RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 64 + 2, width // 64 + 2, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8).reshape(height, width, 3)


def encoded(image: NDArray[np.uint8], suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, image[..., ::-1])[1])


def drawn(annotation: dict[str, Any], names: Sequence[str], meta: sly.ProjectMeta) -> NDArray[np.uint8]:
    """Objects as class indices (H, W)."""
    read = sly.Annotation.from_json(annotation, meta)
    labels = np.zeros(read.img_size, np.uint8)
    for label in read.labels:
        label.geometry.draw(labels, names.index(label.obj_class.name))
    return labels


def percentile(values: Sequence[float], share: int) -> float:
    """In milliseconds."""
    return round(statistics.quantiles(values, n=100, method="inclusive")[share - 1] * 1000, 1)


def measure_clients(url: str, content: dict[str, Any], clients: int) -> dict[str, Any]:
    """REQUESTS requests of so many clients, each its next one once it has an answer."""
    rng = np.random.default_rng(0)
    images = [picture(*map(int, rng.integers(*SIDES, 2)), seed) for seed in range(40)]
    files = [encoded(image, ".png") for image in images]
    expected = [prediction.labels for prediction in Predictor(content, "cpu").predict(images)]
    meta = sly.ProjectMeta.from_json(requests.post(f"{url}/get_model_meta", json={}, timeout=30).json())
    names = [info["name"] for info in content["classes"]]
    seconds, wrong, failed, at, lock = [], [0], [0], {}, threading.Lock()

    def ask(number: int) -> None:
        which, start = number % len(files), time.perf_counter()
        form = {"settings": json.dumps({"settings": {"threshold": "argmax", "background": True}})}
        answer = requests.post(f"{url}/inference_image", files={"files": ("photo.png", files[which])}, data=form, timeout=300)
        took = time.perf_counter() - start
        right = answer.ok and np.array_equal(drawn(answer.json()["annotation"], names, meta), expected[which])
        with lock:
            seconds.append(took)
            failed[0] += not answer.ok
            wrong[0] += answer.ok and not right
            if len(seconds) in (100, REQUESTS):
                at[len(seconds)] = round(memory(url), 1)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(REQUESTS)))
    row: dict[str, Any] = {"clients": clients, "requests": REQUESTS, "wrong": wrong[0], "failed": failed[0]}
    row |= {"requests_per_second": round(REQUESTS / (time.perf_counter() - start), 1)}
    row |= {f"p{share}_ms": percentile(seconds, share) for share in (50, 90, 99)}
    return row | {f"memory_mb_at_{count}": value for count, value in sorted(at.items())}


def measure_size(url: str, process: psutil.Process, width: int, height: int, route: str) -> dict[str, Any]:
    """One image as JPEG. The peak is the process's resident memory, looked at every 20 ms."""
    file, field = encoded(picture(height, width, 0), ".jpg"), "files" if route == ROUTES[0] else "image"
    done, most, before = threading.Event(), [0], process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    answer = requests.post(f"{url}{route}", files={field: ("photo.jpg", file)}, timeout=900)
    took = time.perf_counter() - start
    done.set()
    watcher.join()
    row: dict[str, Any] = {"width": width, "height": height, "route": route, "status": answer.status_code}
    row |= {"seconds": round(took, 2), "file_mb": round(len(file) / 2**20, 2), "answer_mb": round(len(answer.content) / 2**20, 2)}
    row |= {"memory_before_mb": round(before / 2**20), "memory_peak_mb": round(max(most[0], before) / 2**20)}
    return row if answer.ok else row | {"message": answer.json()["message"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clients", "sizes"))
    parser.add_argument("--note", default="", help="what to know about the machine")
    options = parser.parse_args()
    content = checkpoint("test_efficientnet", 64 if options.what == "clients" else 512, 0.25)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder) / "best.pth", content)
        with serving(path) as (url, process):
            if options.what == "clients":
                measure = (measure_clients(url, content, clients) for clients in CLIENTS)
            else:
                measure = (measure_size(url, process, *size, route) for size in SIZES for route in ROUTES)
            for row in measure:
                rows.append(row)
                print(json.dumps(row), flush=True)
            assert answers(url), "the app does not answer any more"
    print(record(f"python -m benchmarks.serving_clients {options.what}", options, rows))


if __name__ == "__main__":
    main()
