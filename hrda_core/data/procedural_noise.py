"""Random fields from which surfaces and cracks are made: value noise, white noise, packed stones."""

import cv2
import numpy as np

from hrda_core.data.pixel_operations import Array, as_float


def fractal_noise(
    rng: np.random.Generator,
    size: int,
    cells: float | tuple[float, float],
    octaves: int = 3,
    persistence: float = 0.5,
) -> Array:
    """Value noise of several octaves, (size, size) float32 with mean 0 and standard deviation 1.

    `cells` is the number of bumps of the coarsest octave across the picture, or (down, across) for stretched noise.
    """
    down, across = cells if isinstance(cells, tuple) else (cells, cells)
    quarter = max(16, size // 4)
    coarse = np.zeros((quarter, quarter), np.float32)
    fine = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        rows, columns = (int(np.clip(n * 2**octave, 1, size)) for n in (down, across))
        target = coarse if max(rows, columns) * 5 <= quarter else fine  # smooth octaves need no full resolution
        target += np.float32(persistence**octave) * _value_noise(rng, len(target), rows, columns)
    if coarse.any():
        fine += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    mean, deviation = cv2.meanStdDev(fine)
    fine -= np.float32(mean[0, 0])
    fine *= np.float32(1.0 / (deviation[0, 0] + 1e-6))
    return fine


def _value_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Array:
    grid = rng.standard_normal((rows + 3, columns + 3), dtype=np.float32)
    # the rim, where interpolation turns flat, is cut off
    y, x = (min(size, int(1.5 * size / n)) for n in (rows, columns))
    grown = cv2.resize(grid, (size + 2 * x, size + 2 * y), interpolation=cv2.INTER_CUBIC)
    return as_float(grown[y : y + size, x : x + size])


def white_noise(rng: np.random.Generator, size: int) -> Array:
    """Independent noise of mean 0 and standard deviation 1, (size, size) float32.

    The sum of two uniform bytes: triangular, not normal, which no eye can tell, and three times as fast.
    """
    first, second = rng.integers(0, 256, (2, size, size), np.uint8)
    return as_float(cv2.addWeighted(first, 1 / 104.5, second, 1 / 104.5, -255 / 104.5, dtype=cv2.CV_32F))


def grains(rng: np.random.Generator, size: int, spacing: float) -> tuple[Array, Array]:
    """Angular stones packed about `spacing` pixels apart: (random value of each stone in 0..1, height 0..1).

    The height is 0 in the gaps between the stones and levels off at 1 on top of them.
    """
    count = max(4, int((size / spacing) ** 2))
    seeds = np.full((size, size), 255, np.uint8)
    seeds[rng.integers(0, size, count), rng.integers(0, size, count)] = 0
    _, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = rng.random(count + 1, dtype=np.float32)[label]
    gap = np.full((size, size), 255, np.uint8)
    gap[1:][label[1:] != label[:-1]] = 0
    gap[:, 1:][label[:, 1:] != label[:, :-1]] = 0
    distance = cv2.distanceTransform(gap, cv2.DIST_L2, 3)
    return value, as_float(np.minimum(distance * np.float32(3.0 / spacing), 1.0))
