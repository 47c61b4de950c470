"""Crack-free surfaces without photos: asphalt, concrete, plaster, brick, stone, wood and rusty metal.

Every surface is a function (rng, size) -> (size, size, 3) float32 RGB, roughly within 0..1.
"""

from collections.abc import Callable

import cv2
import numpy as np

from hrda_core.data.pixel_operations import Array, as_float, blur, mixed, painted, relief, shaded
from hrda_core.data.procedural_noise import fractal_noise, grains, white_noise


def _colour(rng: np.random.Generator, low: tuple[float, float, float], high: tuple[float, float, float]) -> Array:
    """A colour on the line between two colours, jittered."""
    mix = rng.random()
    colour = np.array(low) * (1 - mix) + np.array(high) * mix + rng.normal(0.0, 0.015, 3)
    return as_float(colour)


def _stain(rng: np.random.Generator, image: Array, colour: Array, cells: float | tuple[float, float], cover: float) -> Array:
    """Blends patches of another colour in where fractal noise is high; `cover` in 0..1 is about their share."""
    field = fractal_noise(rng, image.shape[0], cells, 4, 0.6)
    level = float(np.quantile(field[::5, ::5], 1.0 - cover))
    alpha = np.clip((field - level) * rng.uniform(0.6, 3.0), 0.0, 1.0) * rng.uniform(0.15, 0.6)
    return mixed(image, alpha, colour)


def asphalt(rng: np.random.Generator, size: int) -> Array:
    """Dark binder with stones of two sizes, from smooth mastic to coarse chip seal."""
    scale = size / 512
    angle = rng.uniform(0, 2 * np.pi)
    coarse_value, coarse = grains(rng, size, scale * np.exp(rng.uniform(np.log(4.5), np.log(18))))
    fine_value, fine = grains(rng, size, scale * rng.uniform(2.5, 5))
    exposed = np.clip((coarse_value - rng.uniform(0.1, 0.9)) * 6, 0, 1) * (coarse > 0.05)
    binder = 0.75 + 0.25 * fine * fine_value + rng.uniform(0.02, 0.08) * white_noise(rng, size)
    stone = rng.uniform(0.7, 1.1) + rng.uniform(0.2, 0.9) * (np.modf(coarse_value * 7)[0] - 0.3)
    shade = binder + exposed * rng.uniform(0.4, 1.0) * (stone - binder)
    height = blur(0.6 * coarse * exposed + 0.4 * fine, 0.8)
    shade = shade * (1 + rng.uniform(0.3, 1.6) * relief(height, angle)) * (1 + 0.06 * fractal_noise(rng, size, 3, 3))
    image = painted(_colour(rng, (0.30, 0.30, 0.31), (0.58, 0.56, 0.54)), shade)
    warm = as_float(exposed * (np.modf(coarse_value * 13)[0] - 0.5) * rng.uniform(0.0, 0.25))
    return as_float(image * cv2.merge([1 + warm, 1 + 0.2 * warm, 1 - 0.8 * warm]))


def concrete(rng: np.random.Generator, size: int) -> Array:
    """Grey matrix with clouds, streaks of formwork or rain, pores and speckles."""
    angle = rng.uniform(0, 2 * np.pi)
    stretched = (2.0, rng.uniform(8, 40)) if rng.random() < 0.5 else (rng.uniform(20, 60), 2.0)
    shade = 1 + rng.uniform(0.02, 0.10) * fractal_noise(rng, size, rng.uniform(2, 6), 5, 0.65)
    shade += rng.uniform(0.0, 0.05) * fractal_noise(rng, size, stretched, 3, 0.7)
    shade += rng.uniform(0.01, 0.06) * blur(white_noise(rng, size), rng.uniform(0.5, 1.2))
    bumps = fractal_noise(rng, size, rng.uniform(30, 90), 2)
    shade *= 1 + rng.uniform(0.0, 0.06) * relief(bumps, angle)
    pore_value, pore = grains(rng, size, size / 512 * rng.uniform(5, 12))
    holes = as_float((pore_value > rng.uniform(0.96, 0.999)) & (pore > rng.uniform(0.4, 0.9)))
    shade *= 1 - rng.uniform(0.1, 0.6) * blur(holes, 0.8 * size / 512)
    image = painted(_colour(rng, (0.45, 0.45, 0.44), (0.74, 0.71, 0.66)), shade)
    if rng.random() < 0.6:
        image = _stain(rng, image, _colour(rng, (0.2, 0.2, 0.18), (0.45, 0.38, 0.3)), (3, rng.uniform(4, 20)), 0.3)
    if rng.random() < 0.4:
        image = _stain(rng, image, _colour(rng, (0.7, 0.7, 0.7), (0.9, 0.88, 0.84)), rng.uniform(2, 8), 0.2)
    return image


def plaster(rng: np.random.Generator, size: int) -> Array:
    """Painted render: one colour, orange-peel or trowelled relief, faint dirt."""
    angle = rng.uniform(0, 2 * np.pi)
    trowelled = rng.random() < 0.4
    cells = (rng.uniform(20, 50), rng.uniform(4, 10)) if trowelled else rng.uniform(25, 90)
    bumps = fractal_noise(rng, size, cells, 3, 0.6)
    shade = 1 + rng.uniform(0.01, 0.10) * relief(bumps, angle) + 0.03 * fractal_noise(rng, size, 2, 4, 0.6)
    shade += rng.uniform(0.005, 0.025) * white_noise(rng, size)
    palette = (
        ((0.78, 0.77, 0.74), (0.92, 0.91, 0.88)),
        ((0.72, 0.62, 0.45), (0.86, 0.78, 0.62)),
        ((0.70, 0.50, 0.45), (0.84, 0.70, 0.64)),
        ((0.45, 0.52, 0.66), (0.60, 0.55, 0.74)),
        ((0.50, 0.58, 0.50), (0.66, 0.72, 0.66)),
    )
    low, high = palette[int(rng.choice(5, p=[0.45, 0.2, 0.13, 0.12, 0.1]))]
    image = painted(_colour(rng, low, high), shade)
    if rng.random() < 0.5:
        image = _stain(rng, image, _colour(rng, (0.3, 0.28, 0.24), (0.55, 0.5, 0.42)), (2, rng.uniform(3, 16)), 0.25)
    if rng.random() < 0.25:  # flaked paint
        image = _stain(rng, image, _colour(rng, (0.5, 0.47, 0.42), (0.75, 0.72, 0.68)), rng.uniform(3, 8), 0.12)
    return image


def brick(rng: np.random.Generator, size: int) -> Array:
    """Running-bond masonry with mortar joints; each brick has its own tone."""
    height = size * rng.uniform(0.09, 0.45)
    length = height * rng.uniform(1.6, 3.2)
    joint = height * rng.uniform(0.06, 0.16)
    grid_x = np.arange(size, dtype=np.float32)[None, :]
    grid_y = grid_x.T
    wobble = joint * rng.uniform(0.05, 0.25)
    tilt = np.float32(rng.normal(0.0, 0.03))
    y = grid_y + tilt * grid_x + wobble * fractal_noise(rng, size, 12, 3) + np.float32(rng.uniform(0, height))
    row = np.floor(y / height)
    x = grid_x - tilt * grid_y + wobble * fractal_noise(rng, size, 12, 3) + length * 0.5 * (row % 2)
    x = x + np.float32(rng.uniform(0, length))
    column = np.floor(x / length)
    edge = np.minimum(np.minimum(y % height, height - y % height), np.minimum(x % length, length - x % length))
    face = np.clip((edge - joint / 2) / max(1.0, 0.15 * joint) + 0.5, 0.0, 1.0)
    tone = np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233 + rng.uniform(0, 9))) * 43.7585)[0]
    rough = 1 + rng.uniform(0.02, 0.07) * fractal_noise(rng, size, rng.uniform(10, 60), 4, 0.8)
    rough += rng.uniform(0.01, 0.05) * white_noise(rng, size)
    palette = (
        ((0.52, 0.24, 0.17), (0.74, 0.40, 0.26)),
        ((0.30, 0.20, 0.18), (0.46, 0.30, 0.25)),
        ((0.70, 0.58, 0.42), (0.82, 0.74, 0.58)),
        ((0.58, 0.55, 0.56), (0.74, 0.70, 0.72)),
    )
    low, high = palette[int(rng.integers(4))]
    bricks = painted(_colour(rng, low, high), rough * (1 + rng.uniform(0.05, 0.5) * (tone - 0.5)))
    sandy = 1 + 0.06 * fractal_noise(rng, size, 60, 3, 0.7)
    mortar = painted(_colour(rng, (0.35, 0.34, 0.32), (0.85, 0.83, 0.78)), sandy)
    bevel = blur(as_float(face), max(0.8, 0.12 * joint))
    return shaded(mixed(mortar, face, bricks), 1 + rng.uniform(0.1, 1.0) * relief(bevel, rng.uniform(0, 6.28)))


def stone(rng: np.random.Generator, size: int) -> Array:
    """Terrazzo, washed concrete or granite: angular chips of many sizes and tones in a paste."""
    shade = 1 + 0.05 * fractal_noise(rng, size, 4, 5, 0.7) + 0.03 * white_noise(rng, size)
    spacing = size / 512 * rng.uniform(8, 32)
    paste = rng.uniform(0.7, 1.1)
    picture = paste * shade
    for scale in (1.0, 0.45):
        value, height = grains(rng, size, scale * spacing)
        chip = blur(as_float((height > rng.uniform(0.1, 0.5)) & (value > rng.uniform(0.0, 0.7))), 0.6)
        tone = 1 + rng.uniform(0.2, 0.9) * (np.modf(value * 11)[0] - 0.5)
        picture = picture + chip * rng.uniform(0.3, 0.9) * (tone * shade - picture)
    return painted(_colour(rng, (0.42, 0.41, 0.40), (0.72, 0.66, 0.58)), picture)


def wood(rng: np.random.Generator, size: int) -> Array:
    """Boards with grain along one axis."""
    grid = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    bend = 0.05 * fractal_noise(rng, size, (1, 4), 3)
    rings = np.sin((grid + bend) * rng.uniform(60, 200))
    fibre = fractal_noise(rng, size, (3, size / 6), 2)
    shade = 1 + rng.uniform(0.03, 0.14) * rings + rng.uniform(0.03, 0.1) * fibre
    boards = np.floor((grid + rng.random()) * rng.uniform(1.5, 6))
    shade = shade * (1 + 0.15 * np.sin(boards * 91.7)) * (1 + 0.05 * fractal_noise(rng, size, 3, 3))
    image = painted(_colour(rng, (0.35, 0.27, 0.20), (0.70, 0.56, 0.40)), shade)
    return np.ascontiguousarray(image.transpose(1, 0, 2)) if rng.random() < 0.5 else image


def rust(rng: np.random.Generator, size: int) -> Array:
    """Steel plate overgrown with rust of several browns."""
    shade = 1 + 0.05 * fractal_noise(rng, size, 6, 5, 0.7) + 0.04 * white_noise(rng, size)
    image = painted(_colour(rng, (0.36, 0.20, 0.12), (0.52, 0.31, 0.18)), shade)
    for low, high in (((0.25, 0.13, 0.08), (0.35, 0.2, 0.12)), ((0.62, 0.36, 0.14), (0.72, 0.45, 0.22))):
        image = _stain(rng, image, _colour(rng, low, high), rng.uniform(4, 16), rng.uniform(0.2, 0.5))
    if rng.random() < 0.5:  # paint that still holds
        image = _stain(rng, image, _colour(rng, (0.3, 0.36, 0.36), (0.6, 0.62, 0.58)), rng.uniform(2, 6), 0.35)
    return image


SURFACES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "asphalt": asphalt,
    "concrete": concrete,
    "plaster": plaster,
    "brick": brick,
    "stone": stone,
    "wood": wood,
    "rust": rust,
}
