"""Colours of classes that can be told apart on a black background."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

Color = tuple[int, int, int]
APART = 48  # the least difference of two colours, and to black, in the channel where they differ most
GOLDEN_RATIO = 0.618033988749895


def distinct_colors(wanted: Sequence[Color | None]) -> list[Color]:
    """One colour each: the wanted one, unless it is nearly black or resembles an earlier one, or none is wanted."""
    chosen: list[Color | None] = []
    for color in wanted:
        free = color is not None and all(_differ(color, other) for other in [(0, 0, 0), *(c for c in chosen if c)])
        chosen.append(color if free else None)
    taken = [(0, 0, 0), *(c for c in chosen if c)]
    result: list[Color] = []
    for color in chosen:
        result.append(color or _another(taken))
        taken.append(result[-1])
    return result


def _differ(one: Color, other: Color, apart: int = APART) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) >= apart


def _another(taken: Sequence[Color]) -> Color:
    """Hues a golden section apart; where all are taken (many classes) less difference must do."""
    for apart in (APART, APART // 2, APART // 4, 1):
        for number in range(512):
            saturation, value = (1.0, 1.0) if number % 2 == 0 else (0.6, 0.8)
            red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, saturation, value)
            color = round(255 * red), round(255 * green), round(255 * blue)
            if all(_differ(color, other, apart) for other in taken):
                return color
    raise ValueError(f"{len(taken)} colours leave no other")
