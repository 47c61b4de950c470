"""Which image a training sample comes from: rare-class sampling (Hoyer et al., DAFormer, arXiv 2111.14887, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

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
        classes = self.pixels[:, :-1]
        total = classes.sum(axis=0)
        if not self.rare_classes or not total.any():
            return int(rng.integers(len(self.pixels))), None
        chosen = int(rng.choice(len(total), p=rare_class_probabilities(total, self.temperature)))
        share = classes[:, chosen] / np.maximum(self.pixels.sum(axis=1), 1)
        candidates = np.flatnonzero(share > self.min_pixels / IMAGE_AREA)
        if len(candidates) == 0:  # so rare that no image qualifies: those that hold it at all
            candidates = np.flatnonzero(classes[:, chosen])
        return int(rng.choice(candidates)), chosen

    def crop_pixels(self, crop_ratio: float, crop_area: int) -> float:
        """Pixels of the rare class that a crop of `crop_area` pixels should hold."""
        return self.min_pixels * crop_ratio * crop_area / CROP_AREA
