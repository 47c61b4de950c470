"""What light and camera do to a surface: gradients, lamps, shadows, exposure, blur, noise, sharpening, JPEG.

All functions take and return (H, W, 3) float32 RGB, nominally 0..1.
"""

import cv2
import numpy as np
import numpy.typing as npt

from hrda_core.data.pixel_operations import LUMA, Array, as_float, blur, luminance, shaded
from hrda_core.data.procedural_noise import fractal_noise, white_noise


def illuminate(rng: np.random.Generator, image: Array, lamp: bool) -> Array:
    """Uneven light: a gradient and sometimes a vignette; with `lamp` a spot that leaves the corners in the dark."""
    size = max(16, image.shape[0] // 4)  # light is smooth: a quarter of the resolution will do
    grid_x = np.linspace(-0.5, 0.5, size, dtype=np.float32)[None, :]
    grid_y = grid_x.T
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.45) * (np.cos(angle) * grid_x + np.sin(angle) * grid_y)
    if rng.random() < 0.3:
        light *= 1 + rng.uniform(0.02, 0.12) * fractal_noise(rng, size, 2, 2)
    if lamp:
        x, y = rng.uniform(-0.35, 0.35, 2)
        radius = rng.uniform(0.3, 0.7)
        light *= rng.uniform(0.1, 0.3) + np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * radius**2))
    elif rng.random() < 0.35:
        light *= 1 - rng.uniform(0.2, 0.9) * (grid_x**2 + grid_y**2)
    return shaded(image, cv2.resize(as_float(light), image.shape[1::-1]))


def cast_shadow(rng: np.random.Generator, image: Array) -> Array:
    """The shadow of something outside the picture: a half plane, a pole or foliage, with a soft border."""
    size = image.shape[0]
    shape = rng.integers(3)
    if shape == 0:
        alpha = np.clip(fractal_noise(rng, size, rng.uniform(2, 6), 3) * rng.uniform(1.0, 4.0), 0, 1)
    else:
        alpha = np.zeros((size, size), np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        start = size * rng.uniform(0.15, 0.85, 2) - 2 * size * along
        reach = 2 * size if shape == 1 else size * rng.uniform(0.02, 0.15)
        corners = np.array([start, start + 4 * size * along, start + 4 * size * along + reach * across])
        corners = np.vstack([corners, start + reach * across])
        cv2.fillPoly(alpha, [corners.astype(np.int32)], 1.0)
        alpha = blur(alpha, size / 512 * rng.uniform(0.8, 12))
    alpha = as_float(rng.uniform(0.25, 0.6) * alpha)
    # the sky lights a shadow: it loses more red than blue
    return as_float(image * cv2.merge([1 - 1.05 * alpha, 1 - alpha, 1 - 0.9 * alpha]))


def grade(
    rng: np.random.Generator,
    image: Array,
    exposure: tuple[float, float],
    saturation: tuple[float, float],
    tint: tuple[float, float, float],
    jitter: float,
) -> Array:
    """Brings mean brightness into `exposure`, scales saturation, tints; `jitter` spreads white balance and contrast."""
    mean = max(float(luminance(image).mean()), 0.02)
    target = rng.uniform(*exposure)
    cast = 0.12 if rng.random() < 0.07 * jitter else 0.025 * jitter  # now and then a camera gets white balance wrong
    balance = np.array(tint) * np.exp(rng.normal(0.0, cast, 3))
    gain = target / mean * balance / (balance @ LUMA)
    contrast = np.exp(rng.normal(0.0, 0.2 * jitter))
    keep = rng.uniform(*saturation)
    mixing = contrast * gain[:, None] * (keep * np.eye(3) + (1 - keep) * LUMA[None])
    offset = np.full((3, 1), target * (1 - contrast))  # contrast turns about the mean
    return as_float(cv2.transform(image, np.hstack([mixing, offset])))


def photograph(rng: np.random.Generator, image: Array, noise: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Optics, sensor and file: blur, lost resolution, noise, sharpening halos, JPEG blocks. Returns (H, W, 3) uint8."""
    size = image.shape[0]
    draw = rng.random()
    if draw < 0.55:
        image = blur(image, size / 512 * rng.uniform(0.3, 1.1))
    elif draw < 0.65:
        reach = max(3, int(size / 512 * rng.uniform(3, 9)))
        kernel = np.zeros((reach, reach), np.float32)
        angle = rng.uniform(0, np.pi)
        arm = (reach - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
        middle = (reach - 1) / 2
        first, last = np.round(middle - arm).astype(int), np.round(middle + arm).astype(int)
        cv2.line(kernel, (int(first[0]), int(first[1])), (int(last[0]), int(last[1])), 1.0)
        image = as_float(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))
    if rng.random() < 0.25:
        small = int(size * rng.uniform(0.4, 0.9))
        shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = as_float(cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_CUBIC))
    level = rng.uniform(*noise) * np.sqrt(np.clip(luminance(image), 0.05, 1.0))
    coloured = rng.random() < 0.3
    planes = [as_float(level * white_noise(rng, size)) for _ in range(3 if coloured else 1)]
    image = image + cv2.merge(planes if coloured else planes * 3)
    if rng.random() < 0.3:
        sharper = rng.uniform(0.3, 1.5)
        soft = blur(image, rng.uniform(0.8, 2.0))
        image = as_float(cv2.addWeighted(image, 1 + sharper, soft, -sharper, 0))
    picture = np.asarray(cv2.convertScaleAbs(np.maximum(image, 0), alpha=255), np.uint8)
    if rng.random() < 0.6:
        quality = int(rng.integers(35, 95))
        _, code = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(picture)
