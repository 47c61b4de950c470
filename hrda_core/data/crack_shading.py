"""How a crack looks: dark by depth, a lit floor, bright rims, partial fills, halos; colours come from the surface."""

import cv2
import numpy as np
import numpy.typing as npt

from hrda_core.data.crack_geometry import CrackField
from hrda_core.data.pixel_operations import Array, as_float, blur, relief
from hrda_core.data.procedural_noise import fractal_noise

LIGHT_CRACKS = 0.03  # share of cracks that efflorescence or sealant makes lighter than the surface
FILLS = np.array([[1.05, 0.95, 0.8], [0.9, 1.0, 0.75], [1.0, 1.0, 1.0]], np.float32)  # sand, moss, dust


def shade_crack(rng: np.random.Generator, image: Array, field: CrackField, light: float, contrast: tuple[float, float]) -> Array:
    """The surface (H, W, 3) float32 with the crack in it, lit from the angle `light` (radians).

    `contrast` is the range of how much darker than the surface the bottom of the crack is (1 = black).
    """
    size = image.shape[0]
    unit = size / 512
    # a crack thinner than a pixel darkens it only in part
    cover = np.clip(field.inside + 0.5, 0, 1) * np.clip(2 * field.half_width, 0, 1)
    cover = blur(as_float(cover), rng.uniform(0.3, 0.8))
    tint = as_float(np.exp(rng.normal(0.0, 0.04, 3)))
    around = blur(image, 5 * unit)
    result = _shade_surroundings(rng, image, field, light)

    # from here on only pixels that show some crack, as rows of (N, 3)
    within = np.flatnonzero(cover > 0.004)
    alpha = cover.ravel()[within, None]
    outer, ground = result.reshape(-1, 3)[within], around.reshape(-1, 3)[within] * tint
    if rng.random() < LIGHT_CRACKS:
        inner = np.clip(ground * np.float32(rng.uniform(1.3, 1.9)), 0, 1.1)
        alpha = alpha * np.float32(rng.uniform(0.5, 0.95))
    else:
        inner = _inside(rng, outer, ground, field, light, contrast, within)
    result.reshape(-1, 3)[within] = outer + alpha * (inner - outer)
    return result


def _inside(
    rng: np.random.Generator,
    surface: Array,
    ground: Array,
    field: CrackField,
    light: float,
    contrast: tuple[float, float],
    within: npt.NDArray[np.intp],
) -> Array:
    """Colours (N, 3) of the opening itself; `surface` is the surface at these pixels, `ground` its local mean."""
    size = field.inside.shape[0]
    unit = size / 512
    depth = 1 - np.exp(np.maximum(field.inside.ravel()[within], 0) * np.float32(-1 / (unit * rng.uniform(0.6, 3.0))))
    # a crack that is seen at all stands out from the grain, and the finer it is the more it needs to
    grain_level = float((surface - ground).std() / (ground.mean() + 0.05))
    thin = 1 - float(np.clip(field.half_width.ravel()[within].mean() / (2 * unit), 0, 1))
    darkness = np.clip(max(rng.uniform(*contrast), 0.25 + 0.8 * grain_level + 0.3 * thin), 0, 0.99)
    patches = fractal_noise(rng, size, 24, 4, 0.7).ravel()[within]
    dark = darkness * (0.62 + 0.38 * depth) * np.clip(1 + rng.uniform(0.0, 0.35) * patches, 0.25, 1.3)
    grain = np.float32(rng.uniform(0.0, 0.7)) * (1 - depth)  # the surface's grain goes on where the crack is shallow
    inner = (ground + grain[:, None] * (surface - ground)) * (1 - np.clip(dark, 0, 0.98))[:, None]
    if rng.random() < 0.4:
        lit = _lit_floor(rng, field, light).ravel()[within] * np.float32(rng.uniform(0.2, 0.9))
        floor = ground * (0.75 + 0.2 * fractal_noise(rng, size, 90, 2).ravel()[within])[:, None]
        inner = inner + lit[:, None] * (floor - inner)
    if rng.random() < 0.35:  # dirt, sand or moss lies in it in places
        noise = fractal_noise(rng, size, rng.uniform(4, 20), 3).ravel()[within]
        amount = np.clip(noise * 2 + rng.uniform(-2.0, 1.0), 0, 1) * np.float32(rng.uniform(0.3, 0.9))
        grit = np.clip(1 + 0.25 * fractal_noise(rng, size, 100, 1).ravel()[within], 0.3, 1.7)
        fill = ground * FILLS[rng.integers(len(FILLS))] * np.float32(rng.uniform(0.35, 0.75)) * grit[:, None]
        inner = inner + amount[:, None] * (fill - inner)
    return as_float(inner)


def _lit_floor(rng: np.random.Generator, field: CrackField, light: float) -> Array:
    """Where light reaches the floor of a shallow crevice: farther than the shadow's length from the lit border."""
    reach = rng.uniform(0.4, 1.2) * max(1.0, float(field.half_width.max()))
    shift = as_float([[1, 0, reach * np.cos(light)], [0, 1, reach * np.sin(light)]])
    shifted = cv2.warpAffine(field.inside, shift, field.inside.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    return blur(np.clip(as_float(shifted) * 0.5 + 0.5, 0, 1), 0.7)


def _shade_surroundings(rng: np.random.Generator, image: Array, field: CrackField, light: float) -> Array:
    """A copy of the surface with bright rims or a halo along the crack, or neither."""
    size = image.shape[0]
    unit = size / 512
    result: Array = image.copy()
    beside = np.flatnonzero(field.inside > -size / 16)
    outside = np.maximum(-field.inside.ravel()[beside], 0)
    factor = np.ones_like(outside)
    if rng.random() < 0.5:
        bevel = relief(blur(np.clip(field.inside, -3 * unit, 3 * unit), 0.8 * unit), light).ravel()[beside]
        if rng.random() < 0.3:  # chipped edges shine on both sides
            bevel = -np.abs(bevel)
        near = np.exp(-outside / (unit * rng.uniform(0.7, 3.0)))
        near *= np.clip(field.half_width.ravel()[beside] / (3 * unit), 0, 1)  # hairlines have no edge that could shine
        chips = np.clip(0.6 + 0.6 * fractal_noise(rng, size, 40, 2).ravel()[beside], 0, 2)
        factor += near * np.clip(-bevel, 0, 1) * chips * np.float32(rng.uniform(0.1, 0.7))
    if rng.random() < 0.25:  # moisture or dirt darkens, lime lightens the surface along the crack
        factor *= 1 + np.exp(-outside / (unit * rng.uniform(3, 12))) * np.float32(rng.uniform(-0.35, 0.15))
    result.reshape(-1, 3)[beside] *= factor[:, None]
    return result
