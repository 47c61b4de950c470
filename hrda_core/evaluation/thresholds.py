"""Output thresholds: how to choose them from a stream of probability maps, and the one rule that applies them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hrda_core.evaluation.metrics import IGNORE, NAN, check_class_map, check_classes, check_values, joint_histogram

BINS = 256


class ThresholdSweep:
    """Histograms of every foreground class's probability at its positive, negative and unlabelled pixels.

    Results are lists with one entry per foreground class, in class order: what `apply_thresholds` takes.
    Every class is judged alone (probability >= threshold against the rest), which for one foreground class is
    exactly the rule of `apply_thresholds`. Thresholds resolve to 1/256.
    """

    def __init__(self, classes: int, has_background: bool = True) -> None:
        self._first = check_classes(classes, has_background)
        self.classes = classes
        shape = (classes - self._first, BINS)
        self._positive = np.zeros(shape, dtype=np.int64)
        self._negative = np.zeros(shape, dtype=np.int64)
        self._unlabelled = np.zeros(shape, dtype=np.int64)

    def update(self, probabilities: NDArray[np.float32], label: NDArray[np.uint8] | None) -> None:
        """Add one image: probabilities (C, H, W) in 0..1, label (H, W) uint8 (255 ignored) or None."""
        check_probabilities(probabilities)
        if len(probabilities) != self.classes:
            raise ValueError(f"probabilities: {len(probabilities)} channels for {self.classes} classes; pass one each")
        if label is not None:
            check_class_map(label, "label")
            if label.shape != probabilities.shape[1:]:
                raise ValueError(
                    f"label: shape {label.shape} differs from the probabilities' {probabilities.shape[1:]}; resize them"
                )
            check_values(np.bincount(label.ravel(), minlength=256), self.classes, "label")
        for row, plane in enumerate(probabilities[self._first :]):
            bins = np.minimum(plane * BINS, BINS - 1).astype(np.uint8)
            if label is None:
                self._unlabelled[row] += np.bincount(bins.ravel(), minlength=BINS)
                continue
            counts = joint_histogram(label, bins)
            positive = counts[row + self._first]
            self._positive[row] += positive
            self._negative[row] += counts[: self.classes].sum(axis=0) - positive

    def merge(self, other: ThresholdSweep) -> None:
        """Add what another sweep over the same classes has counted (another process, another part of the data)."""
        if (self.classes, self._first) != (other.classes, other._first):
            raise ValueError(
                f"other: {other.classes} classes, {other._first} of them background; here {self.classes}, {self._first}"
            )
        self._positive += other._positive
        self._negative += other._negative
        self._unlabelled += other._unlabelled

    def best(self) -> list[float]:
        """Threshold of highest IoU per class; the middle one where several tie, 0.5 for a class never labelled."""
        thresholds = []
        for row, curve in enumerate(self._iou_curves()):
            if not self._positive[row].any():
                thresholds.append(0.5)
                continue
            winners = np.flatnonzero(curve == curve.max())
            thresholds.append(float(winners[len(winners) // 2]) / BINS)
        return thresholds

    def iou_at(self, threshold: float) -> list[float]:
        """IoU of each class at one threshold, rounded to 1/256; NaN where the class occurs nowhere."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: {threshold} is no probability; pass a number from 0 to 1")
        position = min(round(threshold * BINS), BINS - 1)
        return [float(curve[position]) for curve in self._iou_curves()]

    def threshold_for_fraction(self, fraction: float | Sequence[float]) -> list[float]:
        """Threshold at which each class covers `fraction` of the pixels (one for all classes, or one each).

        Needs no labels. Pixels labelled 255 do not count. Interpolates linearly inside a bin.
        """
        fractions = [fraction] * len(self._positive) if isinstance(fraction, int | float) else list(fraction)
        if len(fractions) != len(self._positive):
            raise ValueError(f"fraction: {len(fractions)} values for {len(self._positive)} foreground classes")
        histograms = self._positive + self._negative + self._unlabelled
        if not histograms.any():
            raise ValueError("threshold_for_fraction: no pixel seen yet; call update first")
        return [_threshold_for_fraction(h, f) for h, f in zip(histograms, fractions, strict=True)]

    def _iou_curves(self) -> NDArray[np.float64]:
        """(foreground classes, 256): IoU at thresholds 0, 1/256, ..., 255/256."""
        hit = np.cumsum(self._positive[:, ::-1], axis=1)[:, ::-1]
        false = np.cumsum(self._negative[:, ::-1], axis=1)[:, ::-1]
        union = self._positive.sum(axis=1, keepdims=True) + false
        curves = np.full(hit.shape, NAN)
        np.divide(hit, union, out=curves, where=union > 0)
        return curves


def apply_thresholds(
    probabilities: NDArray[np.float32], thresholds: Sequence[float] | None, has_background: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Probabilities (C, H, W) -> labels (H, W) uint8 and confidence (H, W) float32.

    thresholds None: plain argmax over all classes. Otherwise one per foreground class: the most probable among the
    foreground classes that reach their threshold (p >= t), else background, or 255 where there is no background.
    Confidence is the probability of the emitted class; for 255 it is 1 - the largest probability.
    """
    check_probabilities(probabilities)
    first = check_classes(len(probabilities), has_background)
    if thresholds is None:
        return np.argmax(probabilities, axis=0).astype(np.uint8), probabilities.max(axis=0).astype(np.float32)
    if len(thresholds) != len(probabilities) - first:
        raise ValueError(f"thresholds: {len(thresholds)} values for {len(probabilities) - first} foreground classes")

    # Class by class: never a second (C, H, W) array, which for a large photo would be gigabytes.
    shape = probabilities.shape[1:]
    labels = np.full(shape, 0 if has_background else IGNORE, dtype=np.uint8)
    winner = np.full(shape, -1, dtype=np.float32)
    for index, threshold in enumerate(thresholds, start=first):
        plane = probabilities[index]
        better = (plane >= threshold) & (plane > winner)
        labels[better] = index
        winner[better] = plane[better]
    rest = probabilities[0] if has_background else 1 - probabilities.max(axis=0)
    return labels, np.where(winner >= 0, winner, rest).astype(np.float32)


def check_probabilities(probabilities: NDArray[np.float32]) -> None:
    if probabilities.ndim != 3 or probabilities.size == 0:
        raise ValueError(f"probabilities: shape {probabilities.shape} is not (classes, height, width)")
    low, high = float(probabilities.min()), float(probabilities.max())
    # Written so that NaN fails too. A little above 1 is the rounding of half precision.
    if not (low >= 0 and high <= 1.01):
        raise ValueError(f"probabilities: values from {low:g} to {high:g}; pass softmax or sigmoid output, not logits")


def _threshold_for_fraction(histogram: NDArray[np.int64], fraction: float) -> float:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: {fraction} is not between 0 and 1; 3 % of the pixels is 0.03")
    # covered[k]: fraction of pixels with probability >= k/256; falls from 1 to 0 over 257 edges.
    covered = np.append(np.cumsum(histogram[::-1])[::-1], 0) / histogram.sum()
    low = int(np.flatnonzero(covered >= fraction)[-1])
    high = int(np.flatnonzero(covered <= fraction)[0])
    if high <= low:  # a gap without pixels: every threshold in it gives the fraction, the middle is the safest
        return (low + high) / 2 / BINS
    share = (covered[low] - fraction) / (covered[low] - covered[high])
    return float((low + share) / BINS)
