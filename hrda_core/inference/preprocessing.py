"""How an image reaches the network, and how its windows are blended: what a checkpoint stores about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hrda_core.data.crops import scale_of
from hrda_core.data.samples import Image
from hrda_core.inference.resampling import resized_rows
from hrda_core.inference.tiling import BLENDINGS, Tiling

SMALLEST_WINDOW = 64
SMALLEST_ZOOM, LARGEST_ZOOM = 0.1, 10


@dataclass(frozen=True)
class Preprocessing:
    """How an image reaches the network; stored in the checkpoint as plain types.

    scale, fit_short, fit_long: see `DataConfig`. window: (height, width) of the sliding window. overlap: share of it.
    blending, flips: see `Tiling`. tile_batch: windows per pass of the network. zooms: sizes at which a photo is looked at, of
    which the surest count. most_foreground: share of foreground in the fullest labelled image; sizes at which a photo
    would have more do not count. The defaults of these five are what checkpoints were measured with that were written
    before the fields existed.

    Raises:
        ValueError: a value out of range.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    fit_short: int
    fit_long: int
    window: tuple[int, int]
    overlap: float
    blending: str = "average"
    flips: bool = False
    tile_batch: int = 4
    zooms: tuple[float, ...] = (1.0,)
    most_foreground: float = 1.0

    def __post_init__(self) -> None:
        if len(self.window) != 2 or min(self.window) < SMALLEST_WINDOW:
            raise ValueError(f"window={tuple(self.window)}: use (height, width) in pixels, each at least {SMALLEST_WINDOW}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap={self.overlap}: use a share from 0 up to, not including, 1")
        if self.blending not in BLENDINGS:
            raise ValueError(f"blending={self.blending!r}: use {' or '.join(map(repr, BLENDINGS))}")
        if self.tile_batch < 1:
            raise ValueError(f"tile_batch={self.tile_batch}: use at least 1")
        if not self.zooms or not all(SMALLEST_ZOOM <= zoom <= LARGEST_ZOOM for zoom in self.zooms):
            raise ValueError(f"zooms={tuple(self.zooms)}: use factors from {SMALLEST_ZOOM} to {LARGEST_ZOOM}")
        if not 0 <= self.most_foreground <= 1:
            raise ValueError(f"most_foreground={self.most_foreground}: use a share from 0 to 1")

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.window, self.overlap, self.blending, self.flips, self.tile_batch)

    def network_size(self, height: int, width: int, zoom: float = 1.0) -> tuple[int, int]:
        """(height, width) at which the network sees an image of height x width pixels."""
        scale = zoom * scale_of(height, width, self.scale, self.fit_short, self.fit_long)
        return (max(round(height * scale), 1), max(round(width * scale), 1))

    def for_parts_of(self, height: int, width: int) -> Preprocessing:
        """With this, a part that was cut from an image of height x width pixels is seen as large as in the whole image."""
        return replace(self, scale=scale_of(height, width, self.scale, self.fit_short, self.fit_long), fit_short=0, fit_long=0)

    def fitted(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> at the size to which all images are resized; as it is where they are not (fit_short=0)."""
        if not self.fit_short:
            return image
        size = self.network_size(*image.shape[:2])
        return resized_rows(image, size, 0, size[0])

    @staticmethod
    def from_plain(content: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_plain`; fields that a checkpoint of an earlier version lacks take their defaults.

        Raises:
            ValueError: a field that this version does not know.
        """
        known = [field.name for field in fields(Preprocessing)]
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise ValueError(f"preprocessing.{unknown[0]}: this version of hrda_core knows {', '.join(known)}; update hrda_core")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
        return Preprocessing(**values)

    def as_plain(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
