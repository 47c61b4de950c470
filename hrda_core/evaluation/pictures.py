"""Pictures that explain a prediction: overlay, confidence and errors. All return RGB uint8 (H, W, 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.evaluation.metrics import IGNORE, check_class_map, check_values

Colour = tuple[int, int, int]

# Told apart with every common colour blindness (Okabe and Ito), on a dark ground.
ERROR_COLOURS: Mapping[str, Colour] = {
    "found": (0, 178, 128),
    "false alarm": (230, 97, 20),
    "missed": (86, 180, 233),
    "wrong class": (214, 130, 180),
    "ignored": (128, 132, 140),
    "background": (28, 31, 38),
}


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    colours: Sequence[Sequence[int]],
    opacity: float = 0.5,
    has_background: bool = True,
) -> NDArray[np.uint8]:
    """Class colours (RGB, in class order) over an image (H, W, 3). Background stays bare, 255 is hatched grey."""
    _check_image(image, labels)
    check_values(np.bincount(labels.ravel(), minlength=256), len(colours), "labels")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: {opacity} is out of range; pass a number from 0 (invisible) to 1 (solid)")
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = np.asarray(colours, dtype=np.uint8).reshape(-1, 3)
    paint = palette[labels]
    hatched = labels == IGNORE
    paint[hatched] = np.where(_stripes(labels.shape), 225, 95)[hatched][:, None]

    bare = labels == 0 if has_background else np.zeros(labels.shape, dtype=bool)
    mixed = cv2.addWeighted(image, 1 - opacity, paint, opacity, 0)
    return np.where(bare[..., None], image, mixed).astype(np.uint8)


def confidence_map(confidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Confidence (H, W) in 0..1, dark violet (0) to yellow (1): viridis, even in lightness. NaN shows as 0."""
    if confidence.ndim != 2:
        raise ValueError(f"confidence: shape {confidence.shape} is not (height, width)")
    level = (np.clip(np.nan_to_num(confidence), 0, 1) * 255).round().astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def error_map(prediction: NDArray[np.uint8], label: NDArray[np.uint8], has_background: bool = True) -> NDArray[np.uint8]:
    """Foreground found, falsely found, missed, of the wrong class, and ignored, in ERROR_COLOURS. Both (H, W) uint8."""
    check_class_map(prediction, "prediction")
    check_class_map(label, "label")
    if prediction.shape != label.shape:
        raise ValueError(f"prediction: shape {prediction.shape} differs from the label's {label.shape}; resize it")
    first = 1 if has_background else 0
    predicted = (prediction >= first) & (prediction != IGNORE)
    true = (label >= first) & (label != IGNORE)
    picture = np.empty((*label.shape, 3), dtype=np.uint8)
    picture[:] = ERROR_COLOURS["background"]
    picture[predicted & true] = ERROR_COLOURS["found"]
    picture[predicted & true & (prediction != label)] = ERROR_COLOURS["wrong class"]
    picture[predicted & ~true] = ERROR_COLOURS["false alarm"]
    picture[true & ~predicted] = ERROR_COLOURS["missed"]
    picture[label == IGNORE] = ERROR_COLOURS["ignored"]
    return picture


def shrink(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The image with its longer side at most `long_side` px, averaged over areas; smaller images stay as they are."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _stripes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    # About 32 stripes along the longer side, so that they survive the shrinking in the report.
    width = max(2, max(shape) // 64)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + columns) // width % 2 == 0)


def _check_image(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    check_class_map(labels, "labels")
    if image.dtype != np.uint8 or image.shape != (*labels.shape, 3):
        raise ValueError(
            f"image: {image.dtype} {image.shape} does not fit labels {labels.shape}; pass RGB uint8 {(*labels.shape, 3)}"
        )
