"""The photos whose labels would teach the network most: uncertain ones that differ from each other.

Greedy, as in core-set selection (Sener & Savarese 2018), with the distance weighted by uncertainty, so that neither ten
views of one difficult wall are proposed nor ten varied photos that the network masters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hrda_core.data.samples import Dataset, Image

Probabilities = Callable[[Image], NDArray[np.float32]]  # (H, W, 3) uint8 RGB -> (C, H, W) float32
Features = Callable[[Image], NDArray[np.float32]]  # -> (D,)


def annotate_next(
    probabilities: Probabilities, features: Features, photos: Dataset, indices: Sequence[int], count: int = 10
) -> list[tuple[int, float]]:
    """(index, uncertainty) of up to `count` of the photos at `indices`, the most worthwhile first."""
    uncertainty = [uncertainty_of(probabilities(photos.image(i))) for i in indices]
    described = np.stack([features(photos.image(i)) for i in indices]) if len(indices) else np.zeros((0, 1), np.float32)
    return [(indices[i], uncertainty[i]) for i in uncertain_and_diverse(uncertainty, described, count)]


def uncertainty_of(probabilities: NDArray[np.float32]) -> float:
    """Mean entropy over the pixels, 1 = all classes equally likely everywhere."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return float(entropy.mean() / np.log(max(len(probabilities), 2)))


def uncertain_and_diverse(uncertainty: Sequence[float], features: NDArray[np.float32], count: int) -> list[int]:
    """Positions of up to `count` items: first the most uncertain, then always the one of largest uncertainty x distance.

    Args:
        features: (N, D). The distance of an item is that to the nearest chosen one, by cosine, 0 to 2.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    weights = np.asarray(uncertainty, dtype=np.float64)
    distance = np.full(len(weights), 2.0)
    chosen: list[int] = []
    while len(chosen) < min(count, len(weights)):
        gain = weights * distance
        gain[chosen] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        distance = np.minimum(distance, 1 - unit @ unit[best])
    return chosen
