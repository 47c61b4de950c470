"""What a request may choose about a prediction; everything else is what the checkpoint was measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from hrda_core.inference.preprocessing import LARGEST_ZOOM, SMALLEST_WINDOW, SMALLEST_ZOOM, Preprocessing
from hrda_core.inference.tiling import BLENDINGS
from hrda_core.inference.zoom_choice import WINDOWS, zooms_averaged

LARGEST_TILE = 2048  # pixels; the network's memory grows with the tile's area
LARGEST_OVERLAP = 0.9  # at 0.9 every pixel is predicted a hundred times
SCALES = (0.05, 4.0)
MOST_ZOOMS = 9
MAX_TILES = 50_000  # of one image; 12,000 x 9,000 px has 1,645 of 512 px with half overlap


@dataclass(frozen=True)
class PredictOptions:
    """How to predict an image. None is what the checkpoint was measured with.

    tile_size: (height, width) of the sliding window in pixels. overlap: share by which neighbours overlap. blending:
    "smooth" or "average". scale: by how much the image is resized for the network. flips: average with the mirrored image.
    zooms: factors of that size at which the image is looked at; those at which the network is surest count.
    thresholds: "tuned" (those in the checkpoint), "argmax", one number for all foreground classes, or one for each.
    probabilities: hand back those of every class, (C, H, W).

    Raises:
        ValueError: a value out of range; the message names the field, the value and the fix.
    """

    tile_size: tuple[int, int] | None = None
    overlap: float | None = None
    blending: str | None = None
    scale: float | None = None
    flips: bool | None = None
    zooms: tuple[float, ...] | None = None
    thresholds: str | float | Sequence[float] = "tuned"
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.tile_size is not None:
            object.__setattr__(self, "tile_size", _tile_size(self.tile_size))
        if self.overlap is not None and not (_is_number(self.overlap) and 0 <= self.overlap <= LARGEST_OVERLAP):
            raise ValueError(f"overlap={self.overlap!r}: use a share from 0 to {LARGEST_OVERLAP}")
        if self.blending is not None and self.blending not in BLENDINGS:
            raise ValueError(f"blending={self.blending!r}: use {' or '.join(map(repr, BLENDINGS))}")
        if self.scale is not None and not (_is_number(self.scale) and SCALES[0] <= self.scale <= SCALES[1]):
            raise ValueError(f"scale={self.scale!r}: use a number from {SCALES[0]} to {SCALES[1]}")
        if self.flips is not None and not isinstance(self.flips, bool):
            raise ValueError(f"flips={self.flips!r}: use true or false")
        if self.zooms is not None:
            object.__setattr__(self, "zooms", _zooms(self.zooms))
        if not isinstance(self.probabilities, bool):
            raise ValueError(f"probabilities={self.probabilities!r}: use true or false")
        object.__setattr__(self, "thresholds", _thresholds(self.thresholds))

    def preprocessing(self, measured: Preprocessing) -> Preprocessing:
        """What the checkpoint was `measured` with, and what this request wants otherwise."""
        wanted: dict[str, Any] = {"window": self.tile_size, "overlap": self.overlap, "blending": self.blending}
        wanted |= {"flips": self.flips, "zooms": self.zooms}
        changes = {name: value for name, value in wanted.items() if value is not None}
        if self.scale is not None:  # a factor takes the place of "fit into so many pixels"
            changes |= {"scale": float(self.scale), "fit_short": 0, "fit_long": 0}
        return replace(measured, **changes)

    def thresholds_of(self, foreground: int) -> str | list[float]:
        """ "tuned", "argmax", or one number for each of the `foreground` classes.

        Raises:
            ValueError: another number of thresholds.
        """
        if isinstance(self.thresholds, str):
            return self.thresholds
        if isinstance(self.thresholds, float):
            return [self.thresholds] * foreground
        if len(self.thresholds) != foreground:
            raise ValueError(
                f"thresholds={list(self.thresholds)}: this model has {foreground} foreground classes; give one number for all, "
                f"or {foreground}"
            )
        return list(self.thresholds)


def check_tiles(height: int, width: int, preprocessing: Preprocessing) -> int:
    """How many tiles an image of height x width pixels has at most (twice as many with flips).

    Raises:
        ValueError: more than `MAX_TILES`.
    """
    zooms = preprocessing.zooms
    by_zoom = [_tiles(preprocessing.network_size(height, width, zoom), preprocessing) for zoom in zooms]
    looked_at = sum(min(tiles, WINDOWS) for tiles in by_zoom) if len(zooms) > 1 else 0  # to choose between sizes
    predicted = sum(sorted(by_zoom)[-zooms_averaged(len(zooms)) :])
    tiles = predicted * (2 if preprocessing.flips else 1) + looked_at
    if tiles > MAX_TILES:
        size = "x".join(map(str, preprocessing.window))
        largest = f", zooms up to {max(zooms):g}" if len(zooms) > 1 else ""
        raise ValueError(
            f"tile_size={size}, overlap={preprocessing.overlap:g}, scale{largest}: {tiles} tiles for an image of {width}x"
            f"{height} px are more than {MAX_TILES}; use larger tiles, less overlap or a smaller scale"
        )
    return tiles


def _tiles(size: tuple[int, int], preprocessing: Preprocessing) -> int:
    tiles = 1
    for side, window in zip(size, preprocessing.window, strict=True):
        stride = max(round(window * (1 - preprocessing.overlap)), 1)
        tiles *= -(-max(side - window, 0) // stride) + 1
    return tiles


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _tile_size(value: object) -> tuple[int, int]:
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or not all(SMALLEST_WINDOW <= side <= LARGEST_TILE for side in sides):
        raise ValueError(f"tile_size={value!r}: use (height, width) in pixels, each from {SMALLEST_WINDOW} to {LARGEST_TILE}")
    return (int(sides[0]), int(sides[1]))


def _zooms(value: object) -> tuple[float, ...]:
    zooms = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    good = all(_is_number(zoom) and SMALLEST_ZOOM <= zoom <= LARGEST_ZOOM for zoom in zooms)
    if not 1 <= len(zooms) <= MOST_ZOOMS or not good:
        raise ValueError(f"zooms={_short(value)}: use 1 to {MOST_ZOOMS} factors from {SMALLEST_ZOOM} to {LARGEST_ZOOM}")
    return tuple(map(float, zooms))


def _thresholds(value: object) -> str | float | tuple[float, ...]:
    if isinstance(value, str) and value in ("tuned", "argmax"):
        return value
    several = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = list(value) if several else [value]  # type: ignore[call-overload]
    if not numbers or len(numbers) > 255 or not all(_is_number(number) and 0 <= number <= 1 for number in numbers):
        raise ValueError(f"thresholds={_short(value)}: use 'tuned', 'argmax', a number from 0 to 1, or one per foreground class")
    return tuple(map(float, numbers)) if several else float(numbers[0])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
