"""Things on real surfaces that are not cracks: joints, edges, stains, wires, lines, tiles, scratches, holes, leaves.

`disturb` paints on the bare surface, before the crack; `occlude` lays things over the crack and says where.
Pictures are (H, W, 3) float32 RGB, nominally 0..1.
"""

import cv2
import numpy as np
import numpy.typing as npt

from hrda_core.data.pixel_operations import Array, as_float, blur, luminance, mixed, painted, relief, shaded
from hrda_core.data.procedural_noise import fractal_noise

Polyline = npt.NDArray[np.float64]

PAINTS = ((0.9, 0.9, 0.88), (0.85, 0.68, 0.2), (0.7, 0.25, 0.2))
LEAVES = ((0.45, 0.35, 0.12), (0.25, 0.38, 0.12), (0.5, 0.25, 0.1), (0.75, 0.7, 0.6))


def _straight(rng: np.random.Generator, size: int) -> Polyline:
    """Two points far outside the picture on a line through it, mostly near level or plumb."""
    angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0.0, 0.08) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    centre = size * rng.uniform(0.08, 0.92, 2)
    reach = 2 * size * np.array([np.cos(angle), np.sin(angle)])
    return np.stack([centre - reach, centre + reach])


def _curve(rng: np.random.Generator, size: int, reach: float) -> Polyline:
    """A cubic Bezier curve of about `reach` (share of the picture), 40 points: wires and scrawls have no kinks."""
    start = size * rng.uniform(-0.1, 1.1, 2)
    corners = np.cumsum(np.vstack([start, rng.normal(0.0, size * reach, (3, 2))]), axis=0)
    t = np.linspace(0, 1, 40)[:, None]
    a, b, c, d = corners
    return np.asarray((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)


def _stroke(size: int, line: Polyline, width: float, soft: float) -> Array:
    """Coverage 0..1 of a polyline of the given width (pixels), anti-aliased, its border blurred by `soft` pixels."""
    canvas = np.zeros((2 * size, 2 * size), np.uint8)
    points = np.round((line * 2 + 0.5) * 16).astype(np.int32)
    cv2.polylines(canvas, [points], False, 255, max(1, round(2 * width)), cv2.LINE_AA, 4)
    small = as_float(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA))
    return blur(small / np.float32(255), soft)


def _tone(rng: np.random.Generator, image: Array, factor: float) -> Array:
    """A colour made from the picture's mean, so that it belongs there."""
    mean = image.reshape(-1, 3)[::97].mean(axis=0)
    return as_float(np.clip(mean * factor * np.exp(rng.normal(0.0, 0.08, 3)), 0.0, 1.1))


def joint(rng: np.random.Generator, image: Array) -> Array:
    """A straight groove of constant width: saw cut, expansion joint, panel border, often with a lit edge."""
    size = image.shape[0]
    unit = size / 512
    width = unit * rng.choice([rng.uniform(1.0, 4.0), rng.uniform(4.0, 18.0)])
    line = _straight(rng, size)
    groove = _stroke(size, line, width, unit * rng.uniform(0.3, 1.2))
    dirt = np.clip(0.8 + 0.2 * fractal_noise(rng, size, 20, 3), 0.2, 1.0)
    image = mixed(image, groove * dirt * np.float32(rng.uniform(0.3, 0.95)), _tone(rng, image, rng.uniform(0.05, 0.8)))
    return shaded(image, 1 + rng.uniform(0, 0.8) * relief(groove, rng.uniform(0, 6.28)))


def tiles(rng: np.random.Generator, image: Array) -> Array:
    """A grid of thin joints, dark or light."""
    size = image.shape[0]
    pitch = size * rng.uniform(0.15, 0.6, 2)
    width = size / 512 * rng.uniform(1.0, 7.0)
    slant = rng.normal(0.0, 0.06) * size
    alpha = np.zeros((size, size), np.float32)
    for x in np.arange(rng.uniform(0, pitch[0]), size, pitch[0]):
        alpha = np.maximum(alpha, _stroke(size, np.array([[x, -9.0], [x + slant, size + 9.0]]), width, 0.5))
    for y in np.arange(rng.uniform(0, pitch[1]), size, pitch[1]):
        alpha = np.maximum(alpha, _stroke(size, np.array([[-9.0, y], [size + 9.0, y - slant]]), width, 0.5))
    tone = rng.uniform(0.15, 0.7) if rng.random() < 0.6 else rng.uniform(1.2, 1.7)
    return mixed(image, alpha * np.float32(rng.uniform(0.4, 0.95)), _tone(rng, image, tone))


def stain(rng: np.random.Generator, image: Array) -> Array:
    """A spill, a repair patch or moss: an irregular patch of another tone."""
    size = image.shape[0]
    grid_x = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    grid_y = grid_x.T
    x, y = rng.uniform(0, 1, 2)
    radius = rng.uniform(0.04, 0.3, 2)
    blob = 1 - ((grid_x - x) / radius[0]) ** 2 - ((grid_y - y) / radius[1]) ** 2
    field = blob + rng.uniform(0.2, 0.8) * fractal_noise(rng, size, 6, 4, 0.6)
    alpha = np.clip(field * rng.uniform(1.0, 8.0), 0, 1) * rng.uniform(0.2, 0.9)
    factor = rng.uniform(0.15, 0.8) if rng.random() < 0.6 else rng.uniform(1.2, 1.9)
    return shaded(image, 1 + alpha * (factor - 1))


def drips(rng: np.random.Generator, image: Array) -> Array:
    """Vertical runs of water or rust below each other."""
    size = image.shape[0]
    runs = np.clip(0.6 * fractal_noise(rng, size, (1.2, rng.uniform(10, 40)), 3) - rng.uniform(0.3, 0.8), 0, 1)
    return mixed(image, as_float(runs * rng.uniform(0.3, 0.8)), _tone(rng, image, rng.uniform(0.3, 1.4)))


def scratches(rng: np.random.Generator, image: Array) -> Array:
    """Pencil, chalk or scratch marks: thin smooth strokes of even width."""
    size = image.shape[0]
    factor = rng.uniform(0.3, 0.8) if rng.random() < 0.4 else rng.uniform(1.2, 1.8)
    colour = _tone(rng, image, factor)
    for _ in range(int(rng.integers(1, 6))):
        alpha = _stroke(size, _curve(rng, size, rng.uniform(0.02, 0.25)), size / 512 * rng.uniform(0.5, 2.2), 0.5)
        image = mixed(image, alpha * np.float32(rng.uniform(0.3, 0.8)), colour)
    return image


def paint_line(rng: np.random.Generator, image: Array) -> Array:
    """A road marking or painted stripe, worn by the texture below it."""
    size = image.shape[0]
    band = _stroke(size, _straight(rng, size), size * rng.uniform(0.03, 0.25), 1.0)
    worn = np.clip(1.2 + rng.uniform(0.2, 0.6) * fractal_noise(rng, size, 20, 4, 0.8), 0, 1)
    colour = as_float(PAINTS[rng.choice(3, p=[0.7, 0.2, 0.1])])
    mean = float(image.mean())
    lit = np.clip(0.4 + 0.6 * luminance(image) / max(mean, 0.05), 0.2, 1.3) * min(1.0, 0.3 + mean * 1.3)
    return mixed(image, band * worn * rng.uniform(0.5, 0.95), painted(colour, lit))


def holes(rng: np.random.Generator, image: Array) -> Array:
    """Tie holes, pits and pop-outs: small dark discs and blobs."""
    size = image.shape[0]
    alpha = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 14))):
        x, y = rng.uniform(0, size, 2)
        axes = size / 512 * rng.uniform(1.5, 9.0) * rng.uniform(0.6, 1.0, 2)
        box = ((float(x), float(y)), (float(2 * axes[0]), float(2 * axes[1])), float(rng.uniform(0, 180)))
        cv2.ellipse(alpha, box, float(rng.uniform(0.4, 1.0)), -1)
    ragged = np.clip(blur(alpha, size / 512) + 0.15 * fractal_noise(rng, size, 60, 2) * alpha, 0, 1)
    return mixed(image, as_float(ragged), _tone(rng, image, rng.uniform(0.1, 0.6)))


def two_surfaces(rng: np.random.Generator, image: Array) -> Array:
    """The border between two planes or two casts: one side is lighter or darker, with a shadow in the corner."""
    size = image.shape[0]
    line = _straight(rng, size)
    direction = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    grid_x = np.arange(size, dtype=np.float32)[None, :]
    grid_y = grid_x.T
    side = (grid_x - line[0, 0]) * direction[1] - (grid_y - line[0, 1]) * direction[0]
    step = np.clip(side / (size / 512 * rng.uniform(1, 5)) + 0.5, 0, 1)
    corner = np.exp(-np.abs(side) / (size / 512 * rng.uniform(1, 14))) * rng.uniform(0, 0.6)
    factor = 1 + step * rng.uniform(-0.5, 0.5) - corner
    tint = [as_float(1 + step * amount) * as_float(factor) for amount in rng.normal(0, 0.1, 3)]
    return as_float(image * cv2.merge(tint))


DISTRACTORS = (joint, tiles, stain, drips, scratches, paint_line, holes, two_surfaces)
ODDS = (0.22, 0.07, 0.17, 0.10, 0.13, 0.09, 0.12, 0.10)


def disturb(rng: np.random.Generator, image: Array, strength: float) -> Array:
    """Paints 0 to 3 distractors at strength 1; about as many times `strength` otherwise."""
    for chosen in rng.choice(len(DISTRACTORS), size=min(6, int(rng.poisson(0.9 * strength))), p=ODDS):
        image = DISTRACTORS[chosen](rng, image)
    return image


def occlude(rng: np.random.Generator, image: Array, strength: float) -> tuple[Array, Array]:
    """Lays a wire with its shadow or a few leaves over everything: (image, coverage (H, W) 0..1 of what hides it)."""
    size = image.shape[0]
    unit = size / 512
    cover = np.zeros((size, size), np.float32)
    if rng.random() < 0.06 * strength:
        line = _curve(rng, size, 0.5) if rng.random() < 0.6 else _straight(rng, size)
        width = unit * rng.uniform(1.5, 8)
        shadow = _stroke(size, line + unit * rng.uniform(-12, 12, 2), width, unit * rng.uniform(0.8, 4))
        image = shaded(image, 1 - rng.uniform(0.2, 0.6) * shadow)
        cover = _stroke(size, line, width, 0.4)
        colour = _tone(rng, image, rng.choice([rng.uniform(0.05, 0.5), rng.uniform(1.2, 2.0)]))
        sheen = relief(blur(cover, max(0.5, width / 3)), rng.uniform(0, 6.28))
        image = mixed(image, cover, painted(colour, 1 + 2.0 * sheen))
    if rng.random() < 0.05 * strength:
        leaf = np.zeros((size, size), np.float32)
        for _ in range(int(rng.integers(1, 6))):
            x, y = rng.uniform(0, size, 2)
            length = size * rng.uniform(0.02, 0.1)
            breadth = length * rng.uniform(0.15, 0.7)
            box = ((float(x), float(y)), (float(length), float(breadth)), float(rng.uniform(0, 180)))
            cv2.ellipse(leaf, box, 1.0, -1, cv2.LINE_AA)
        colour = as_float(np.array(LEAVES[rng.integers(4)]) * rng.uniform(0.6, 1.3))
        image = shaded(image, 1 - 0.4 * np.roll(blur(leaf, 2.0 * unit), (2, 2), (0, 1)))
        image = mixed(image, leaf, painted(colour, 1 + 0.15 * fractal_noise(rng, size, 40, 2)))
        cover = np.maximum(cover, leaf)
    return image, cover
