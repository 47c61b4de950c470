"""Colours of classes that can be told apart on a black background."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)
APART = 48  # the least difference of two colours, and to black, in the channel where they differ most
GOLDEN_RATIO = 0.618033988749895
TONES = ((1.0, 1.0), (0.6, 0.8), (0.9, 0.6), (0.35, 1.0))  # saturation and value


def distinct_colors(wanted: Sequence[Color | None]) -> list[Color]:
    """One colour each: the wanted one, unless it is nearly black or resembles an earlier one, or none is wanted."""
    kept: list[Color | None] = []
    for color in wanted:
        free = color is not None and all(_difference(color, other) >= APART for other in [BLACK, *(c for c in kept if c)])
        kept.append(color if free else None)
    candidates = _candidates()
    room = np.min([_differences(candidates, color) for color in [BLACK, *(c for c in kept if c)]], axis=0)
    result: list[Color] = []
    for color in kept:
        if color is None:  # the first with room around it; with very many classes the one that has most
            index = int(np.argmax(room >= APART)) if room.max() >= APART else int(room.argmax())
            red, green, blue = candidates[index].tolist()
            color = (red, green, blue)
            room = np.minimum(room, _differences(candidates, color))
        result.append(color)
    return result


def _difference(one: Color, other: Color) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _differences(candidates: NDArray[np.int64], color: Color) -> NDArray[np.int64]:
    return np.asarray(np.abs(candidates - np.array(color)).max(axis=1))


def _candidates() -> NDArray[np.int64]:
    """(N, 3), hues a golden section apart, so that neighbours in the list differ most."""
    colors = [colorsys.hsv_to_rgb(i * GOLDEN_RATIO % 1, *TONES[i // 12 % len(TONES)]) for i in range(4096)]
    return np.round(255 * np.array(colors)).astype(np.int64)
