"""A checkpoint that predicts in milliseconds, photos for it, and a network that waits: for the tests of the serving app."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA

WINDOW = 64
WAIT = 20.0  # seconds after which a test that hangs fails


def micro_checkpoint(classes: int = 3, encoder: str = "test_efficientnet", **preprocessing: Any) -> dict[str, Any]:
    """A random network with background and `classes` - 1 others, whose answers vary over an image."""
    torch.manual_seed(0)
    sides = {"detail_size": (64, 64)} if encoder.startswith("mit") else {"multi_resolution": False}
    options: dict[str, Any] = {"encoder": encoder, "head_channels": 16, "num_classes": classes, **sides}
    model = build_model(**options)
    torch.nn.init.normal_(model.head.classifier.weight, std=3.0)
    names = ["background", *(f"damage {i}" for i in range(1, classes))]
    plain = {"scale": 1.0, "fit_short": 0, "fit_long": 0, "window": [WINDOW, WINDOW], "overlap": 0.25, **preprocessing}
    return {
        "format_version": 1,
        "model_config": options,
        "classes": [{"name": name, "color": [40 * i, 0, 255 - 40 * i], "value": i} for i, name in enumerate(names)],
        "preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3, "has_background": True, **plain},
        "student": model.state_dict(),
        "teacher": model.state_dict(),
        "selected": "teacher",
        "thresholds": {"teacher": [0.4] * (classes - 1)},
        "metrics": {"teacher": {"iou": 0.5, "unknown": float("nan")}},
        "provenance": {"iteration": 6},
    }


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: large smooth spots."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8).reshape(height, width, 3)


def png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def in_parallel(work: Callable[[int], Any], count: int) -> list[Any]:
    """What `work(0)` to `work(count - 1)` return or raise, started at the same time, each in a thread of its own."""
    results: list[Any] = [None] * count
    together = threading.Barrier(count)

    def run(index: int) -> None:
        together.wait(WAIT)
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads), "a request hangs"
    return results


class BusyNetwork:
    """Every pass of the network waits until `free` is set. `arrived` is set once one waits."""

    def __init__(self) -> None:
        self.free, self.arrived = threading.Event(), threading.Event()


@contextmanager
def busy_network() -> Iterator[BusyNetwork]:
    state, logits = BusyNetwork(), HRDA.logits

    def wait_first(self: HRDA, image: Tensor) -> Tensor:
        state.arrived.set()
        assert state.free.wait(WAIT)
        return logits(self, image)

    HRDA.logits = wait_first  # type: ignore[method-assign]
    try:
        yield state
    finally:
        state.free.set()
        HRDA.logits = logits  # type: ignore[method-assign]
