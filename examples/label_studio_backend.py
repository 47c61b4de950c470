"""Pre-labels Label Studio's images with Serve HRDA, as one of its ML backends.

    HRDA_URL=http://localhost:8000 uvicorn label_studio_backend:app --app-dir examples --port 9090

Then Settings, Model, Connect model, http://localhost:9090. The labelling interface needs <BrushLabels> whose values are names
of the model's classes. Needs fastapi, uvicorn, numpy, opencv-python and requests. For images that Label Studio stores itself,
set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY. docs/labelling_tools.md tells more.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

import numpy as np
import requests
from fastapi import Body, FastAPI
from serve_client import Answer, Found, predict

HRDA_URL = os.environ.get("HRDA_URL", "http://localhost:8000")
LABEL_STUDIO_URL = os.environ.get("LABEL_STUDIO_URL", "http://localhost:8080")
LENGTH_BITS = (3, 4, 8, 16)  # of the run lengths in Label Studio's masks
app = FastAPI(title="Serve HRDA for Label Studio")


class Interface(NamedTuple):
    """Names in the labelling interface: of the brush, the image, the task's field with its address, and the labels."""

    brush: str
    image: str
    field: str
    labels: frozenset[str]


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "UP"}


@app.post("/setup")
def setup(_: dict[str, Any] = Body()) -> dict[str, str]:  # noqa: B008 - FastAPI reads the default
    card = requests.get(f"{HRDA_URL}/model_card", timeout=30)
    card.raise_for_status()
    return {"model_version": card.json()["version"][:12]}


@app.post("/predict")
def predict_tasks(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008 - FastAPI reads the default
    interface = read_interface(body["label_config"])
    results = []
    for task in body["tasks"]:
        answer = predict(HRDA_URL, fetch(task["data"][interface.field]), objects="component", min_area=10)
        regions = [region(found, answer, interface) for found in answer.objects if found.name in interface.labels]
        # sorted by score, the images that need a look come first
        results.append({"result": regions, "score": 1 - answer.doubt, "model_version": answer.version[:12]})
    return {"results": results}


def read_interface(config: str) -> Interface:
    """Raises ValueError where the interface has no brush for an image."""
    root = ElementTree.fromstring(config)
    brush = next(root.iter("BrushLabels"), None)
    image = next(root.iter("Image"), None)
    if brush is None or image is None:
        raise ValueError("the labelling interface has no <BrushLabels> with an <Image>")
    labels = frozenset(label.attrib["value"] for label in brush.iter("Label"))
    return Interface(brush.attrib["name"], image.attrib["name"], image.attrib["value"].lstrip("$"), labels)


def fetch(address: str) -> bytes:
    """An image from the web, or one that was uploaded to Label Studio."""
    headers = {}
    if address.startswith("/"):
        address = LABEL_STUDIO_URL + address
        headers = {"Authorization": f"Token {os.environ.get('LABEL_STUDIO_API_KEY', '')}"}
    answer = requests.get(address, headers=headers, timeout=60)
    answer.raise_for_status()
    return answer.content


def region(found: Found, answer: Answer, interface: Interface) -> dict[str, Any]:
    """A brush region in Label Studio's format."""
    whole = np.zeros((answer.height, answer.width), np.uint8)
    height, width = found.mask.shape
    whole[found.top : found.top + height, found.left : found.left + width] = found.mask * np.uint8(255)
    return {
        "type": "brushlabels",
        "from_name": interface.brush,
        "to_name": interface.image,
        "original_width": answer.width,
        "original_height": answer.height,
        "image_rotation": 0,
        "score": found.confidence,
        "value": {"format": "rle", "rle": run_lengths(whole), "brushlabels": [found.name]},
    }


def run_lengths(mask: np.ndarray[Any, Any]) -> list[int]:
    """Mask (H, W) uint8 -> bytes of Label Studio's run lengths over an RGBA image.

    32 bits: number of values. 5: bits of a value - 1. Four times 4: bits of the four kinds of lengths - 1. Then for each run:
    1, two bits for the kind of its length, its length - 1, its value.
    """
    values = np.repeat(mask.ravel(), 4)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    starts = np.flatnonzero(np.diff(values, prepend=values[0] ^ 1))
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        for left in range(int(start), int(end), 1 << LENGTH_BITS[-1]):
            length = min(int(end) - left, 1 << LENGTH_BITS[-1])
            kind = next(i for i, size in enumerate(LENGTH_BITS) if length <= 1 << size)
            bits.append(f"1{kind:02b}{length - 1:0{LENGTH_BITS[kind]}b}{int(values[left]):08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
