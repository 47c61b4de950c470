"""Scores of a network on photos without labels: how well its predictions agree with themselves.

Agreement of two probability maps is the soft Jaccard index, sum(min) / sum(max) over the pixels of all photos, averaged over
the foreground classes (all classes where there is no background): 1 where they are equal. On cracks, agreement under
scaling followed the true IoU most closely; entropy misleads where predictions collapse, so that the predicted share of
foreground stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.data.samples import Dataset, Image

Probabilities = Callable[[Image], NDArray[np.float32]]  # (H, W, 3) uint8 RGB -> (C, H, W) float32
Map = NDArray[np.float32]

SCALE = 0.75  # of the second look at a photo
SURE = 0.9  # a pixel whose best class has less is uncertain
LONGEST = 1024  # pixels; of larger photos the middle part counts, so that memory and time stay bounded


@dataclass(frozen=True)
class LabelFreeScores:
    """scale, flip: agreement with the prediction on the photo at 0.75 of its size, and on its mirror image.

    teacher: agreement of this network with the other one. uncertain: share of pixels whose best class has a probability
    below 0.9. entropy: mean over pixels, 1 = all classes equally likely. fractions: predicted share of each class.
    """

    scale: float
    flip: float
    teacher: float
    uncertain: float
    entropy: float
    fractions: tuple[float, ...]


def label_free_scores(
    network: Probabilities,
    other: Probabilities,
    photos: Dataset,
    indices: Sequence[int],
    has_background: bool,
    progress: Callable[[int, int], None] | None = None,
) -> LabelFreeScores:
    """Scores of `network` on the photos at `indices`; `other` is the student where that is the teacher, and vice versa."""
    first = 1 if has_background else 0
    agreements = {name: _Agreement() for name in ("scale", "flip", "teacher")}
    pixels, uncertain, entropy = 0, 0.0, 0.0
    counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for done, index in enumerate(indices, start=1):
        photo = _middle(photos.image(index))
        here = network(photo)
        classes = len(here)
        agreements["scale"].add(here[first:], _at_scale(network, photo, SCALE)[first:])
        agreements["flip"].add(here[first:], network(np.ascontiguousarray(photo[:, ::-1]))[first:, :, ::-1])
        agreements["teacher"].add(here[first:], other(photo)[first:])
        pixels += here[0].size
        uncertain += float((here.max(axis=0) < SURE).sum())
        entropy += float(-(here * np.log(np.maximum(here, 1e-12))).sum()) / np.log(max(classes, 2))
        found = np.bincount(here.argmax(axis=0).ravel(), minlength=classes)
        counts = found if counts.size == 0 else counts + found
        if progress is not None:
            progress(done, len(indices))
    fractions = tuple(float(count) / pixels for count in counts)
    scale, flip, teacher = (agreement.value() for agreement in agreements.values())
    return LabelFreeScores(scale, flip, teacher, uncertain / pixels, entropy / pixels, fractions)


class _Agreement:
    """Soft Jaccard index of pairs of maps (C, H, W), summed over photos."""

    def __init__(self) -> None:
        self.common: NDArray[np.float64] = np.zeros(0)
        self.either: NDArray[np.float64] = np.zeros(0)

    def add(self, one: Map, two: Map) -> None:
        common = np.minimum(one, two).sum(axis=(1, 2), dtype=np.float64)
        either = np.maximum(one, two).sum(axis=(1, 2), dtype=np.float64)
        self.common = common if self.common.size == 0 else self.common + common
        self.either = either if self.either.size == 0 else self.either + either

    def value(self) -> float:
        return float((self.common / np.maximum(self.either, 1e-12)).mean())


def _middle(photo: Image) -> Image:
    height, width = photo.shape[:2]
    top, left = max(height - LONGEST, 0) // 2, max(width - LONGEST, 0) // 2
    return np.ascontiguousarray(photo[top : top + LONGEST, left : left + LONGEST])


def _at_scale(network: Probabilities, photo: Image, scale: float) -> Map:
    """Prediction on the resized photo, at the photo's own size."""
    height, width = photo.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    maps = network(np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in maps]).astype(np.float32)
