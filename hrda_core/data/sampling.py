"""Which image a training sample comes from: rare-class sampling (Hoyer et al., DAFormer, arXiv 2111.14887, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# The published pixel counts are for Cityscapes: images of 2048 x 1024, crops of 1024 x 1024. As shares they fit any size.
IMAGE_AREA = 2048 * 1024
CROP_AREA = 1024 * 1024


def rare_class_probabilities(pixels: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """Pixel counts per class (C,) -> probability of each class (C,): softmax((1 - frequency) / temperature).

    A class without pixels has probability 0.
    """
    present = pixels > 0
    frequency = pixels / max(int(pixels.sum()), 1)
    scores = np.where(present, (1 - frequency) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class SourceSampler:
    """Draws an image for each sample.

    pixels: (images, classes + 1) as `data.samples.class_pixels` counts them.
    rare_classes: False draws images uniformly.
    """

    pixels: NDArray[np.int64]
    rare_classes: bool = True
    temperature: float = 0.01
    min_pixels: int = 3000

    def draw(self, rng: np.random.Generator) -> tuple[int, int | None]:
        """An image index, and the rare class that a crop of it should hold (None for any crop)."""
        if not self.rare_classes or not self._totals.any():
            return int(rng.integers(len(self.pixels))), None
        return self._of_rare_class(rng, self._totals)

    def draw_foreground(self, rng: np.random.Generator, first_class: int) -> tuple[int, int | None] | None:
        """Like `draw`, among the classes from `first_class` on and the images that hold any; None where none does.

        The class is None with rare classes off: any foreground pixel will do.
        """
        totals = np.where(np.arange(len(self._totals)) >= first_class, self._totals, 0)
        if not totals.any():
            return None
        if self.rare_classes:
            return self._of_rare_class(rng, totals)
        return int(rng.choice(np.flatnonzero(self.pixels[:, first_class:-1].any(axis=1)))), None

    def _of_rare_class(self, rng: np.random.Generator, totals: NDArray[np.int64]) -> tuple[int, int]:
        chosen = int(rng.choice(len(totals), p=rare_class_probabilities(totals, self.temperature)))
        count = self.pixels[:, chosen]
        candidates = np.flatnonzero(count / self._areas > self.min_pixels / IMAGE_AREA)
        if len(candidates) == 0:  # so rare that no image qualifies: those that hold it at all
            candidates = np.flatnonzero(count)
        return int(rng.choice(candidates)), chosen

    @cached_property
    def _totals(self) -> NDArray[np.int64]:
        return np.asarray(self.pixels[:, :-1].sum(axis=0))

    @cached_property
    def _areas(self) -> NDArray[np.int64]:
        return np.asarray(np.maximum(self.pixels.sum(axis=1), 1))

    def crop_pixels(self, crop_ratio: float, crop_area: int) -> float:
        """Pixels of the rare class that a crop of `crop_area` pixels should hold."""
        return self.min_pixels * crop_ratio * crop_area / CROP_AREA
