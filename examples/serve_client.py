"""A client of Serve HRDA in 60 lines, for programs without the SDK: an image in, masks of its objects out.

Needs numpy, opencv-python and requests. The other examples use it; copy it into your own project.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import requests


@dataclass(frozen=True)
class Found:
    """An object: mask (h, w) bool, its place in the image, and the mean probability of its pixels."""

    name: str
    confidence: float
    mask: np.ndarray[Any, Any]
    top: int
    left: int


@dataclass(frozen=True)
class Answer:
    """height, width: of the image. doubt: how much of what matters in it the model is not sure of, 0 to 1."""

    height: int
    width: int
    objects: tuple[Found, ...]
    doubt: float
    version: str


def predict(url: str, image: bytes, seconds: float = 600, **settings: Any) -> Answer:
    """An encoded image (JPEG, PNG, TIFF, WebP, BMP) -> what the server at `url` finds; settings as in its README.

    Raises:
        ValueError: what the server says against the image or the settings. requests.RequestException: it is not there.
    """
    wanted = {"settings": {**settings, "output": "bitmap"}}
    sent = requests.post(
        f"{url.rstrip('/')}/inference_image",
        files={"files": ("image", image)},
        data={"state": json.dumps(wanted)},
        timeout=seconds,
    )
    if 400 <= sent.status_code < 500:
        raise ValueError(sent.json()["message"])
    sent.raise_for_status()
    answer = sent.json()
    annotation, facts = answer["annotation"], answer["data"]
    objects = tuple(_found(label) for label in annotation["objects"])
    size = annotation["size"]
    return Answer(size["height"], size["width"], objects, facts["doubt"], facts["weights_version"])


def class_names(url: str) -> list[str]:
    """What the model finds, without the background."""
    card = requests.get(f"{url.rstrip('/')}/model_card", timeout=30)
    card.raise_for_status()
    return [entry["name"] for entry in card.json()["classes"] if not entry["background"]]


def _found(label: dict[str, Any]) -> Found:
    """The platform's bitmaps are PNG files, compressed and written as text."""
    content = zlib.decompress(base64.b64decode(label["bitmap"]["data"]))
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    mask = (pixels[..., 3] if pixels.ndim == 3 else pixels) > 0
    left, top = label["bitmap"]["origin"]
    confidence = next((float(tag["value"]) for tag in label["tags"] if tag["name"] == "confidence"), 1.0)
    return Found(label["classTitle"], confidence, mask, top, left)
