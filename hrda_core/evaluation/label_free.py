"""Scores of a network on photos without labels: how well its predictions agree with themselves.

Agreement of two probability maps is the soft Jaccard index, sum(min) / sum(max) over the pixels of all photos, averaged over
the foreground classes (all classes where there is no background): 1 where they are equal. Uncertain pixels and entropy followed
the true IoU most closely (docs/adaptation.md); they mislead where predictions collapse, so that the predicted share of
foreground stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
) -> tuple[LabelFreeScores, LabelFreeScores]:
    """Scores on the photos at `indices`: of `network` and of `other`, student and teacher. Each predicts a photo three times."""
    ours, theirs = label_free_sums(network, other, photos, indices, has_background, progress)
    return ours.scores(), theirs.scores()


def label_free_sums(
    network: Probabilities,
    other: Probabilities,
    photos: Dataset,
    indices: Sequence[int],
    has_background: bool,
    progress: Callable[[int, int], None] | None = None,
    fit: Callable[[Image], Image] = lambda photo: photo,
) -> tuple[LabelFreeSums, LabelFreeSums]:
    """What `label_free_scores` are made of, for processes that share the photos out.

    fit: a photo at the size to which all are resized, where they are, since what is cut from it must not be.
    """
    first = 1 if has_background else 0
    pair = (LabelFreeSums(), LabelFreeSums())
    for done, index in enumerate(indices, start=1):
        photo = middle(fit(photos.image(index)), LONGEST, LONGEST)
        here = (network(photo), other(photo))
        for sums, predict, ours, theirs in zip(pair, (network, other), here, here[::-1], strict=True):
            mirrored = predict(np.ascontiguousarray(photo[:, ::-1]))[:, :, ::-1]
            sums.add(ours, theirs, _at_scale(predict, photo, SCALE), mirrored, first)
        if progress is not None:
            progress(done, len(indices))
    return pair


class _Agreement:
    """Soft Jaccard index of pairs of maps (C, H, W), summed over photos."""

    def __init__(self) -> None:
        self.common: NDArray[np.float64] = np.zeros(0)
        self.either: NDArray[np.float64] = np.zeros(0)

    def add(self, one: Map, two: Map) -> None:
        self.common = _added(self.common, np.minimum(one, two).sum(axis=(1, 2), dtype=np.float64))
        self.either = _added(self.either, np.maximum(one, two).sum(axis=(1, 2), dtype=np.float64))

    def merge(self, other: _Agreement) -> None:
        self.common, self.either = _added(self.common, other.common), _added(self.either, other.either)

    def value(self) -> float:
        return float((self.common / np.maximum(self.either, 1e-12)).mean())


@dataclass
class LabelFreeSums:
    """Over the photos seen so far; `counts` (C,) are predicted pixels of each class."""

    scale: _Agreement = field(default_factory=_Agreement)
    flip: _Agreement = field(default_factory=_Agreement)
    teacher: _Agreement = field(default_factory=_Agreement)
    pixels: int = 0
    uncertain: float = 0.0
    entropy: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def add(self, here: Map, other: Map, scaled: Map, mirrored: Map, first: int) -> None:
        """A photo's maps (C, H, W): this network's, the other one's, and this one's on two changed photos, changed back.

        first: the first class that counts for agreement.
        """
        for agreement, map_ in ((self.scale, scaled), (self.flip, mirrored), (self.teacher, other)):
            agreement.add(here[first:], map_[first:])
        classes = len(here)
        self.pixels += here[0].size
        self.uncertain += float((here.max(axis=0) < SURE).sum())
        self.entropy += float(-(here * np.log(np.maximum(here, 1e-12))).sum()) / math.log(max(classes, 2))
        self.counts = _added(self.counts, np.bincount(here.argmax(axis=0).ravel(), minlength=classes))

    def merge(self, other: LabelFreeSums) -> None:
        """Add what was summed over other photos."""
        for mine, theirs in ((self.scale, other.scale), (self.flip, other.flip), (self.teacher, other.teacher)):
            mine.merge(theirs)
        self.pixels += other.pixels
        self.uncertain += other.uncertain
        self.entropy += other.entropy
        self.counts = _added(self.counts, other.counts)

    def scores(self) -> LabelFreeScores:
        pixels = self.pixels
        fractions = tuple(float(count) / pixels for count in self.counts)
        agreements = self.scale.value(), self.flip.value(), self.teacher.value()
        return LabelFreeScores(*agreements, self.uncertain / pixels, self.entropy / pixels, fractions)


def _added(one: NDArray[Any], two: NDArray[Any]) -> NDArray[Any]:
    """The sum, where an array without entries is nothing yet."""
    if one.size == 0 or two.size == 0:
        return two if one.size == 0 else one
    return np.asarray(one + two)


def middle(photo: Image, height: int, width: int) -> Image:
    """The middle of a photo, at most `height` x `width` of it."""
    top, left = max(photo.shape[0] - height, 0) // 2, max(photo.shape[1] - width, 0) // 2
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _at_scale(network: Probabilities, photo: Image, scale: float) -> Map:
    """Prediction on the resized photo, at the photo's own size."""
    height, width = photo.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    maps = network(np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in maps]).astype(np.float32)
