"""Tiny data sets, configurations and a trained checkpoint for the tests of training, inference and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrda_core.config import TrainConfig
from hrda_core.data.samples import ClassInfo, Dataset, write_classes

BACKGROUND = ClassInfo("background", (0, 0, 0), 0)
CRACK = ClassInfo("crack", (220, 20, 60), 255)
CRACKS = (BACKGROUND, CRACK)
# timm's smallest network: a run takes about a second on one core.
TINY: dict[str, Any] = {
    "device": "cpu",
    "model": {"encoder": "test_efficientnet", "pretrained": False, "head_channels": 16, "multi_resolution": False},
    "data": {"crop_height": 64, "crop_width": 64, "workers": 0},
    "adaptation": {"source_warmup": 2, "teacher_alpha": 0.9},
    "optimisation": {"iterations": 6, "batch_size": 2, "learning_rate": 1e-3, "warmup_iterations": 0},
    "inference": {"window_height": 96, "window_width": 96, "zooms": [1.0]},
    "schedule": {"validate_every": 3, "checkpoint_every": 3, "preview_every": 3, "previews": 1, "log_every": 2},
}


def tiny(*changes: Mapping[str, Any], mode: str = "adapt") -> TrainConfig:
    config = TrainConfig(mode=mode).updated(TINY)
    for change in changes:
        config = config.updated(change)
    return config


def pictures(count: int, seed: int, height: int = 80, width: int = 96) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Grey noise with a dark line, and its mask."""
    rng, result = np.random.default_rng(seed), []
    for _ in range(count):
        image = rng.integers(120, 200, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        ends = rng.integers(0, min(height, width), 4).tolist()
        cv2.line(mask, (ends[0], ends[1]), (ends[2], ends[3]), 1, 5)
        image[mask == 1] //= 4
        result.append((image, mask))
    return result


def cracks(count: int, seed: int, masks: bool = True, classes: tuple[ClassInfo, ...] = CRACKS) -> Dataset:
    made = pictures(count, seed)
    return Dataset(tuple(image for image, _ in made), tuple(mask for _, mask in made) if masks else None, classes)


def write_folder(root: Path, count: int, seed: int, masks: bool = True) -> Path:
    for name in ("images", "masks") if masks else ("images",):
        (root / name).mkdir(parents=True)
    for i, (image, mask) in enumerate(pictures(count, seed)):
        cv2.imwrite(str(root / "images" / f"{i}.png"), image[..., ::-1])
        if masks:
            cv2.imwrite(str(root / "masks" / f"{i}.png"), mask * 255)
    if masks:
        write_classes(root / "classes.json", CRACKS)
    return root
