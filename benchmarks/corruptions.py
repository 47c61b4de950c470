"""How photos get worse: sensor noise, blur, JPEG, darkness, each in three strengths."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Photo = NDArray[np.uint8]  # (H, W, 3) RGB
STRENGTHS = (1, 2, 3)


def noise(photo: Photo, strength: int, seed: int) -> Photo:
    """Gaussian, standard deviation 10, 20, 40 of 255."""
    grain = np.random.default_rng(seed).normal(0, (10, 20, 40)[strength - 1], photo.shape)
    return np.clip(photo + grain, 0, 255).astype(np.uint8)


def blur(photo: Photo, strength: int, seed: int) -> Photo:
    """Gaussian, sigma 1, 2, 3 pixels."""
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), float(strength)), dtype=np.uint8)


def jpeg(photo: Photo, strength: int, seed: int) -> Photo:
    """Quality 40, 20, 10."""
    _, content = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, (40, 20, 10)[strength - 1]])
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1], dtype=np.uint8)


def darkness(photo: Photo, strength: int, seed: int) -> Photo:
    """A half, a quarter, an eighth of the light, with the sensor noise that remains (4 of 255)."""
    grain = np.random.default_rng(seed).normal(0, 4, photo.shape)
    return np.clip(photo / 2.0**strength + grain, 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Photo, int, int], Photo]] = {"noise": noise, "blur": blur, "jpeg": jpeg, "darkness": darkness}
