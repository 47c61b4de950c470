"""Changes of labelled source crops: light, colour, sharpness, noise, compression, and small turns.

Everything works on uint8 arrays with OpenCV's integer operations: a few milliseconds for a crop of 512 x 512.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.config_data import AugmentationConfig
from hrda_core.data.classes import IGNORE
from hrda_core.data.decoding import Image, Mask

SHADE_GRID = 32  # light is smooth: its field is made so small and enlarged
NORMAL = np.random.default_rng(0).standard_normal(2**16, dtype=np.float32)  # picking among these is faster than drawing


def augment(rng: np.random.Generator, image: Image, label: Mask, config: AugmentationConfig) -> tuple[Image, Mask]:
    """A changed copy of a crop (H, W, 3) uint8 RGB and its label (H, W) uint8; only `rotate_degrees` concerns the label.

    `config` is settled (`AugmentationConfig.settled`); a share 1 - config.probability of the crops comes back unchanged.
    """
    if rng.random() >= config.probability:
        return image, label
    if config.rotate_degrees:
        image, label = turned(rng, image, label, config.rotate_degrees)
    if config.shade:
        image = shaded(rng, image, config.shade)
    if config.colour or config.gamma:
        image = coloured(rng, image, config.colour, config.gamma)
    if rng.random() < config.grey:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    if rng.random() < config.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.15, config.blur_sigma)), np.uint8)
    if config.noise:
        image = noisy(rng, image, config.noise)
    if rng.random() < config.jpeg:
        image = compressed(image, int(rng.integers(config.jpeg_quality, 101)))
    return image, label


def turned(rng: np.random.Generator, image: Image, label: Mask, degrees: float) -> tuple[Image, Mask]:
    """Both by the same angle up to `degrees` either way, about the middle; from outside come reflections, ignored."""
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0)
    image_turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    label_turned = cv2.warpAffine(
        label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=[IGNORE]
    )
    return np.asarray(image_turned, np.uint8), np.asarray(label_turned, np.uint8)


def shaded(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """A soft-edged half plane that is darker or lighter by up to `strength`: a shadow, or light falling in."""
    angle, change = rng.uniform(0, 2 * np.pi), rng.uniform(-strength, strength)
    offset, softness = rng.uniform(-0.7, 0.7), rng.uniform(0.05, 0.8)
    side = np.linspace(-1, 1, SHADE_GRID, dtype=np.float32)
    distance = np.cos(angle) * side[None, :] + np.sin(angle) * side[:, None] - offset
    field = (1 + change / (1 + np.exp(-distance / softness * 4))).astype(np.float32)
    field = np.asarray(cv2.resize(field, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return np.asarray(cv2.multiply(image, cv2.merge([field] * 3), dtype=cv2.CV_8U), np.uint8)


def coloured(rng: np.random.Generator, image: Image, strength: float, gamma: float) -> Image:
    """Brightness, contrast and saturation vary by `strength`, hue by `strength` of a circle, exposure by `gamma` octaves."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    hue, exponent = rng.uniform(-strength, strength), 2.0 ** rng.uniform(-gamma, gamma)
    level = np.arange(256) / 255  # every possible value once, instead of every pixel
    tone = np.clip(np.clip(level + brightness - 1, 0, 1) * contrast, 0, 1) ** exponent
    image = np.asarray(cv2.LUT(image, _bytes(tone)), np.uint8)
    if not strength:
        return image
    steps = np.arange(256)
    table = np.stack([(steps + round(hue * 256)) % 256, _bytes(level * saturation), steps], axis=-1).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB_FULL), np.uint8)


def noisy(rng: np.random.Generator, image: Image, most: float) -> Image:
    """Gaussian noise of a standard deviation up to `most` of full brightness."""
    noise = (NORMAL * np.float32(255 * rng.uniform(0, most)))[rng.integers(0, len(NORMAL), image.shape, dtype=np.uint16)]
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def compressed(image: Image, quality: int) -> Image:
    """Through a JPEG file of this quality."""
    _, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _bytes(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.round(levels * 255), 0, 255), np.uint8)
