"""A network that was exported as ONNX on an image of any size: python predict_onnx.py NETWORK.onnx PHOTO MASK.png

Needs numpy, onnxruntime and opencv-python; neither PyTorch nor this project. Use it as it is or port it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

NO_CLASS = 255
FAINTEST = 1e-3  # weight at the border of a smooth window
FEW = 20  # pixels: a speck of a few sure ones must not decide on the size


class OnnxPredictor:
    """labels (H, W) uint8 class indices and probabilities (C, H, W) float32 of RGB images (H, W, 3) uint8."""

    def __init__(self, path: str) -> None:
        self.session = ort.InferenceSession(path, providers=ort.get_available_providers())
        written = self.session.get_modelmeta().custom_metadata_map
        about = {key: json.loads(value) for key, value in written.items()}
        self.classes, self.thresholds, self.has_background = (about[k] for k in ("classes", "thresholds", "has_background"))
        self.preprocessing = about["preprocessing"]
        self.window = tuple(self.preprocessing["window"])

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zooms = sorted(self.preprocessing.get("zooms", [1.0]), key=lambda zoom: max(zoom, 1 / zoom))
        found = [self.at_size(image, zoom) for zoom in zooms]
        probabilities = np.mean(self.surest(found) if len(found) > 1 else found, axis=0)
        return self.labels(probabilities), probabilities

    def surest(self, found: list[np.ndarray]) -> list[np.ndarray]:
        """The two of three or more sizes, else the one, at which foreground is found most surely, but not too much of it."""
        foreground = [1 - shares[0] for shares in found]
        parts = [share[share > 0.5] for share in foreground]
        much = [part.size / share.size for part, share in zip(parts, foreground, strict=True)]
        plausible = [i for i, share in enumerate(much) if share <= self.preprocessing.get("most_foreground", 1.0)]
        if not plausible:
            return [found[int(np.argmin(much))]]
        order = sorted(plausible, key=lambda i: -parts[i].sum() / (parts[i].size + FEW))
        return [found[i] for i in order[: 2 if len(found) > 2 else 1]]

    def at_size(self, image: np.ndarray, zoom: float) -> np.ndarray:
        height, width = image.shape[:2]
        seen = self.resized(image, zoom)
        total, weights = self.blended(seen)
        if self.preprocessing["flips"]:
            mirrored, mirrored_weights = self.blended(seen[:, ::-1])
            total, weights = total + mirrored[:, :, ::-1], weights + mirrored_weights[:, ::-1]
        planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in total / weights]
        shares = np.exp(np.stack(planes) - np.max(planes, axis=0))
        return shares / shares.sum(axis=0)

    def resized(self, image: np.ndarray, zoom: float) -> np.ndarray:
        """The image at the size that the network was trained for, times `zoom`."""
        height, width = image.shape[:2]
        scale, short, long = (self.preprocessing[key] for key in ("scale", "fit_short", "fit_long"))
        if short:
            scale = min(short / min(height, width), long / max(height, width))
        scale *= zoom
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.rint(cv2.resize(image.astype(np.float32), size, interpolation=way)).astype(np.uint8)

    def blended(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) RGB -> (C, H, W), summed over overlapping windows, and the (H, W) to divide it by.

        What is summed is log(probabilities): the logits but for a number per pixel, which softmax takes out again. An image
        smaller than the window is mirrored up to it; PyTorch makes the window smaller, so that there the two may differ.
        """
        height, width = image.shape[:2]
        rows, columns = max(self.window[0], height), max(self.window[1], width)
        image = cv2.copyMakeBorder(image, 0, rows - height, 0, columns - width, cv2.BORDER_REFLECT_101)
        weight = np.outer(self.profile(self.window[0]), self.profile(self.window[1])).astype(np.float32)
        total = np.zeros((len(self.classes), rows, columns), np.float32)
        weights = np.zeros((rows, columns), np.float32)
        for top in self.starts(rows, self.window[0]):
            for left in self.starts(columns, self.window[1]):
                place = np.s_[top : top + self.window[0], left : left + self.window[1]]
                pixels = image[place].transpose(2, 0, 1)[None].astype(np.float32)
                (probabilities,) = self.session.run(["probabilities"], {"image": pixels})
                total[(slice(None), *place)] += weight * np.log(np.maximum(probabilities[0], 1e-37))
                weights[place] += weight
        if self.preprocessing["blending"] == "smooth":  # then a mirrored view counts everywhere like the other one
            total, weights = total / weights, np.ones_like(weights)
        return total[:, :height, :width], weights[:height, :width]

    def starts(self, length: int, window: int) -> list[int]:
        """Where windows begin along a side; the last one is shifted back inside."""
        stride = max(round(window * (1 - self.preprocessing["overlap"])), 1)
        return [min(i * stride, length - window) for i in range(math.ceil((length - window) / stride) + 1)]

    def profile(self, length: int) -> np.ndarray:
        """Weights along a side of the window: "smooth" counts its middle more, "average" all alike."""
        if self.preprocessing["blending"] == "average":
            return np.ones(length)
        return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2 * (1 - FAINTEST) + FAINTEST

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """The most probable of the foreground classes that reach their threshold, else background, else 255."""
        if self.thresholds is None:
            return probabilities.argmax(axis=0).astype(np.uint8)
        first = int(self.has_background)
        foreground = probabilities[first:]
        reached = np.where(foreground >= np.array(self.thresholds, np.float32)[:, None, None], foreground, -1)
        rest = 0 if self.has_background else NO_CLASS
        return np.where(reached.max(axis=0) >= 0, reached.argmax(axis=0) + first, rest).astype(np.uint8)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("network", "photo", "mask"):
        parser.add_argument(name)
    options = parser.parse_args(arguments)
    photo = cv2.imread(options.photo, cv2.IMREAD_COLOR)  # turned as the camera was held; blue, green, red
    if photo is None:
        print(f"error: {options.photo} is no image that can be read", file=sys.stderr)
        return 1
    if not Path(options.network).is_file():
        print(f"error: {options.network} does not exist: give a file that `python -m hrda_core export` wrote", file=sys.stderr)
        return 1
    predictor = OnnxPredictor(options.network)
    labels, _ = predictor.predict(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB))
    values = np.full(256, NO_CLASS, np.uint8)  # masks hold the classes' numbers of classes.json
    values[: len(predictor.classes)] = [entry["value"] for entry in predictor.classes]
    if not cv2.imwrite(options.mask, values[labels]):
        print(f"error: {options.mask} cannot be written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
