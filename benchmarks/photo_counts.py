"""What every photo of a report set contributes: enough to compute each figure later, at any threshold and over any photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core import Dataset
from hrda_core.evaluation.metrics import IGNORE, joint_histogram

Probabilities = Callable[[Any], NDArray[np.float32]]  # (H, W, 3) uint8 RGB -> (C, H, W)
Counts = NDArray[np.int64]
BINS = 256
THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.05), 2)  # at which boundary-tolerant counts are kept


@dataclass(frozen=True)
class PhotoCounts:
    """P photos, C classes, T = len(THRESHOLDS). Foreground is all classes but background; its probability is 1 - p(background).

    confusion: (P, C, C), rows true, of the argmax. positive, negative: (P, 256), foreground probability of true foreground
    and background pixels. tolerant: (P, T, 4): predicted pixels near a true one, predicted, true near a predicted one, true.
    """

    confusion: Counts
    positive: Counts
    negative: Counts
    tolerant: Counts

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **vars(self))

    @staticmethod
    def load(path: Path) -> PhotoCounts:
        with np.load(path) as file:
            return PhotoCounts(**{name: file[name] for name in ("confusion", "positive", "negative", "tolerant")})


def count_photos(probabilities: Probabilities, photos: Dataset, tolerance: int) -> PhotoCounts:
    """Predicts every photo; all of them must have masks."""
    classes = len(photos.classes)
    confusion, positive, negative, tolerant = [], [], [], []
    for i in range(len(photos)):
        shares, mask = probabilities(photos.image(i)), photos.mask(i)
        assert mask is not None
        confusion.append(joint_histogram(mask, shares.argmax(axis=0).astype(np.uint8))[:classes, :classes])
        known = mask != IGNORE
        if not photos.has_background:
            continue
        true, foreground = known & (mask > 0), 1 - shares[0]
        bins = np.clip(foreground * BINS, 0, BINS - 1).astype(np.uint8)
        positive.append(np.bincount(bins[true], minlength=BINS))
        negative.append(np.bincount(bins[known & ~true], minlength=BINS))
        tolerant.append([_tolerant(known & (foreground >= t), true, tolerance) for t in THRESHOLDS])
    arrays = (np.array(part, dtype=np.int64) for part in (confusion, positive, negative, tolerant))
    return PhotoCounts(*arrays)


def foreground_histogram(probabilities: Probabilities, photos: Dataset, indices: Sequence[int]) -> Counts:
    """(256,): foreground probability of all pixels of some photos; needs no labels."""
    total = np.zeros(BINS, dtype=np.int64)
    for i in indices:
        foreground = 1 - probabilities(photos.image(i))[0]
        total += np.bincount(np.clip(foreground * BINS, 0, BINS - 1).astype(np.uint8).ravel(), minlength=BINS)
    return total


def threshold_of_share(histogram: Counts, share: float) -> float:
    """The threshold at which about `share` of the pixels is foreground."""
    above = np.cumsum(histogram[::-1])[::-1] / max(int(histogram.sum()), 1)
    return float(np.argmin(np.abs(above - share))) / BINS


def _tolerant(found: NDArray[np.bool_], true: NDArray[np.bool_], tolerance: int) -> list[int]:
    radius = np.arange(-tolerance, tolerance + 1)
    disc = (radius[:, None] ** 2 + radius[None, :] ** 2 <= tolerance**2).astype(np.uint8)
    near_true = cv2.dilate(true.astype(np.uint8), disc) > 0
    near_found = cv2.dilate(found.astype(np.uint8), disc) > 0
    return [int((found & near_true).sum()), int(found.sum()), int((true & near_found).sum()), int(true.sum())]
